"""`espalier sweep` and `espalier compare`, here and through a service."""

import json
import threading
from pathlib import Path

import pytest

from schemas.job import JobResult, JobState, ResultManifest
from schemas.sweep_report import SweepReport
from service.cli import main
from service.client import Client
from tests.cli.conftest import Api, Example, keep

FILES = {"point-01.onnx", "point-01.json", "curve.csv", "curve.svg", "report.json", "report.html", "report.md"}


def data(example: Example) -> list[str]:
    return [str(example.model), "--data", str(example.calibration), "--eval", str(example.evaluation)]


def test_a_sweep_here(example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    more = ["--over", "amount.remove_units=0.1,0.9", "--set", "criterion.name=magnitude", "--report", f"{out}.md"]
    assert 0 == main(["sweep", *data(example), "--local", *more, "--out", str(out)])
    said = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == FILES
    report = SweepReport.model_validate_json((out / "report.json").read_bytes())
    assert ["magnitude", "magnitude"] == [point.options.criterion.name for point in report.points]
    assert [0.1, 0.9] == [point.options.amount.share for point in report.points]
    for point in report.points:
        assert point.score is not None
        assert f"{point.number}. {point.label}  {point.score.mean:.4f}" in said
    assert "best, point-01.onnx" in said
    assert f"data: {report.data.how}" in said
    assert f"{out}.md, {out} written" in said
    assert Path(f"{out}.md").read_text() == (out / "report.md").read_text()


def test_a_comparison_here_and_a_broken_constraint(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--criterion", "magnitude", "--criterion", '{"name": "magnitude", "norm": "l1"}']
    more = ["--amount", "remove_units=0.3,0.5", "--set", "constraints.max_parameters=9", "--repeat", "2"]
    assert 1 == main(["compare", *data(example), "--local", *named, *more, "--json", "--keep", "none"])
    report = SweepReport.model_validate_json(capsys.readouterr().out)
    assert 6 == len(report.points)
    assert 3 == len({point.series for point in report.points})
    assert {2} == {len(point.runs) for point in report.points}
    assert not report.verdict.met


def test_options_in_a_file_and_on_the_line(
    example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tmp_path / "sweep.json"
    base = {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}}
    options.write_text(json.dumps({"base": base, "over": {"criterion.norm": ["l1", "l2"]}, "keep": "all"}))
    asked = ["sweep", str(example.model), "--local", "--options", str(options), "--json"]
    assert 0 == main([*asked, "--set", "scope.minimum_kept=3", "--keep", "none"])
    report = SweepReport.model_validate_json(capsys.readouterr().out)
    assert ["norm l1", "norm l2"] == [point.label for point in report.points]
    assert {3} == {point.options.scope.minimum_kept for point in report.points}
    assert {None} == {point.artifact for point in report.points}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["sweep"], "either `over`"),
        (["sweep", "--over", "amount.remove_units"], "takes NAME=VALUE"),
        (["sweep", "--over", "criterion.angle_deg=10,400"], "point 2 (angle_deg 400)"),
        (["sweep", "--over", "criterion.angle_deg=10"], "add --data"),
        (["compare", "--criterion", "magnitde"], "did you mean 'magnitude'"),
        (["compare", "--criterion", '{"name": "karnin", "of": "units"}', "--data", "MODEL"], "add --history"),
        (["compare", "--criterion", "magnitude", "--data", "absent.npz"], "there is no file absent.npz"),
        (["compare", "--criterion", "magnitude", "--report", "r.pdf"], "use .json, .html or .md"),
        (["compare", "--criterion", "magnitude", "--amount", "remove_units=0.5", "--out", "FOLDER"], "an input lies"),
    ],
)
def test_what_is_wrong_is_usage(
    command: list[str], words: str, example: Example, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"MODEL": str(example.model), "FOLDER": str(example.model.parent)}
    named = [places.get(one, one) for one in command]
    assert 2 == main([named[0], str(example.model), "--local", *named[1:]])
    assert words in capsys.readouterr().err


def test_a_service_does_the_same(
    api: Api, example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    command = ["sweep", *data(example), "--over", "amount.remove_units=0.1,0.9", "--set", "criterion.name=magnitude"]
    assert 0 == main([*command, "--local", "--out", str(here)])
    worker = threading.Thread(target=work, args=(api, here))
    worker.start()
    code = main([*command, "--server", api.url, "--out", str(there)])
    worker.join()
    assert 0 == code
    assert FILES == {path.name for path in there.iterdir()}
    for name in FILES:
        assert (here / name).read_bytes() == (there / name).read_bytes()
    assert "best, point-01.onnx" in capsys.readouterr().out


def work(api: Api, folder: Path) -> None:
    """What a worker does with the first sweep that is queued, whose files are there already."""
    with Client(api.url) as client:
        while not (jobs := client.jobs().jobs):
            pass
    assert "sweep" == jobs[0].kind
    claim = api.service.jobs.claim(jobs[0].id, "worker", lease_seconds=60)
    assert claim is not None
    kept = {path.name: keep(api, path.read_bytes()) for path in folder.iterdir()}
    report = SweepReport.model_validate_json((folder / "report.json").read_bytes())
    result = JobResult(
        artifact=None,
        report_json=kept["report.json"],
        report_html=kept["report.html"],
        report_md=kept["report.md"],
        files=tuple(ref.model_copy(update={"name": name}) for name, ref in kept.items() if "report" not in name),
        verdict=report.verdict,
    )
    done = ResultManifest(
        id=jobs[0].id, attempt=claim.attempt, finished_at=1.0, state=JobState.SUCCEEDED, result=result
    )
    assert api.service.jobs.finish(done)[0]
