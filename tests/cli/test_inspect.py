"""`espalier inspect`, here and through a service."""

import json
import threading
from pathlib import Path

import pytest

from schemas.inspection import Inspection
from schemas.job import JobResult, JobState, ResultManifest, Verdict
from service.cli import main
from service.client import Client
from tests.cli.conftest import Api, Example, keep


def inspection(example: Example, capsys: pytest.CaptureFixture[str]) -> Inspection:
    assert 0 == main(["inspect", str(example.model), "--local", "--threads", "1", "--json"])
    return Inspection.model_validate_json(capsys.readouterr().out)


def test_here_it_prints_groups_and_what_stays(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspection(example, capsys)
    assert 0 == main(["inspect", str(example.model), "--local", "--threads", "1", "--data", str(example.calibration)])
    said = capsys.readouterr().out
    assert f"{found.coverage.groups} groups of {found.coverage.units} units" in said
    for group in found.groups:
        assert any(line.split()[:2] == [group.name, str(group.units)] for line in said.splitlines())
    assert found.pins
    for pin in found.pins:
        assert pin.message in said


def test_options_reach_the_engine(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    name = inspection(example, capsys).groups[0].name
    options = ["--set", f"scope.exclude={json.dumps([name])}"]
    assert 0 == main(["inspect", str(example.model), "--local", "--json", *options])
    found = Inspection.model_validate_json(capsys.readouterr().out)
    assert [name] == [group.name for group in found.groups if not group.in_scope]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--set", "criterion.angle_deg=20"], "criterion"),
        (["--data", "absent.npz"], "there is no file absent.npz"),
        (["--external", "x"], "LOCATION=FILE"),
    ],
)
def test_what_is_wrong_is_usage(
    more: list[str], word: str, example: Example, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 == main(["inspect", str(example.model), "--local", *more])
    assert word in capsys.readouterr().err


def test_a_service_does_the_same(api: Api, example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspection(example, capsys)
    worker = threading.Thread(target=work, args=(api, found))
    worker.start()
    code = main(["inspect", str(example.model), "--server", api.url, "--json"])
    worker.join()
    assert 0 == code
    assert found == Inspection.model_validate_json(capsys.readouterr().out)


def work(api: Api, found: Inspection) -> None:
    """What a worker does with the first inspection that is queued."""
    with Client(api.url) as client:
        while not (jobs := client.jobs().jobs):
            pass
    assert "inspect" == jobs[0].kind
    claim = api.service.jobs.claim(jobs[0].id, "worker", lease_seconds=60)
    assert claim is not None
    report = keep(api, found.model_dump_json().encode())
    result = JobResult(
        artifact=None, report_json=report, report_html=report, report_md=report, verdict=Verdict(met=True)
    )
    done = ResultManifest(
        id=jobs[0].id, attempt=claim.attempt, finished_at=1.0, state=JobState.SUCCEEDED, result=result
    )
    assert api.service.jobs.finish(done)[0]


def test_a_pickled_model_is_refused_with_its_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04pickle")
    assert 3 == main(["inspect", str(path), "--local"])
    said = capsys.readouterr().err
    assert "load_state_dict" in said
    assert "model_format_unsupported" in said
