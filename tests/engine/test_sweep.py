"""Whole sweeps and comparisons on a small network: each point is the pruning it stands for."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from schemas.errors import EspalierError
from schemas.files import FileList, is_weights
from schemas.job import Progress
from schemas.kinds import REQUESTS
from schemas.parse import parse
from schemas.report import Report
from schemas.request import JobKind
from schemas.sweep import CompareRequest, SweepRequest
from schemas.sweep_report import SweepPoint, SweepReport
from tests.engine.nets import save
from tests.engine.test_run import as_input, data, job, network
from tests.engine.test_shelf import wide
from worker.engine import run, shelf
from worker.engine import sweep as engine
from worker.engine.sweep import Inputs, Limits, sweep
from worker.engine.verify import verify_artifact

MAGNITUDE = {"criterion": {"name": "magnitude"}}


def many(
    folder: Path,
    options: dict[str, object],
    kind: JobKind = "sweep",
    *,
    calibration: bool = True,
    progress: list[Progress] | None = None,
    proto: onnx.ModelProto | None = None,
) -> SweepReport:
    """A sweep in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    proto = proto or network()
    given = as_input(data(folder, proto, "calibration", 1)) if calibration else None
    request = parse(options, REQUESTS[kind])
    assert isinstance(request, SweepRequest | CompareRequest)
    emit = progress.append if progress is not None else lambda _: None
    return sweep(request, Inputs(as_input(save(proto, folder)), {}, given, None), folder, Limits(1, 1 << 30), emit)


def listed(folder: Path) -> list[str]:
    return list(FileList.model_validate_json((folder / "files.json").read_bytes()).files)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is measured, but not for long."""
    latency = run.evaluate.latency_ms
    monkeypatch.setattr(run.evaluate, "latency_ms", lambda model, one: latency(model, one, budget_seconds=0.0))


def test_a_point_is_the_pruning_that_it_stands_for(tmp_path: Path) -> None:
    found = many(tmp_path, {"base": MAGNITUDE, "over": {"amount.remove_units": [0.3, 0.5]}, "keep": "all"})
    alone = job(tmp_path / "alone", {**MAGNITUDE, "amount": {"remove_units": 0.5}})
    point = found.points[1]
    assert alone.provenance.artifact_sha256 == point.artifact_sha256
    assert (tmp_path / "alone" / "artifact.onnx").read_bytes() == (tmp_path / "point-02.onnx").read_bytes()
    own = Report.model_validate_json((tmp_path / "point-02.json").read_bytes())
    assert (alone.before.accuracy, alone.after.accuracy, alone.groups) == (
        own.before.accuracy,
        own.after.accuracy,
        own.groups,
    )
    ran = point.runs[0]
    assert alone.after.accuracy is not None
    assert (alone.after.accuracy.score, alone.after.accuracy.loss) == (ran.score, ran.loss)
    assert (alone.after.parameters, alone.after.macs) == (ran.parameters, ran.macs)
    assert sum(len(group.removed) for group in alone.groups) == ran.units_removed
    assert found.points[0].parameters is not None
    assert found.points[0].parameters.mean > ran.parameters


def test_the_data_are_run_once_for_all_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, observed = [], []
    prepare, observe = engine.prepare, engine.observe
    monkeypatch.setattr(engine, "prepare", lambda *given: prepared.append(1) or prepare(*given))
    monkeypatch.setattr(engine, "observe", lambda *given: observed.append(1) or observe(*given))
    many(tmp_path / "a", {"over": {"criterion.angle_deg": [10, 20, 30]}})
    assert (1, 1) == (len(prepared), len(observed))
    many(tmp_path / "b", {"over": {"criterion.on": ["activations", "weights"]}, "base": {"compensation": "none"}})
    assert (2, 3) == (len(prepared), len(observed))  # weights alone need no data
    many(tmp_path / "c", {"over": {"criterion.angle_deg": [10, 20]}, "repeat": 2})
    assert (3, 5) == (len(prepared), len(observed))


@pytest.mark.parametrize(("keep", "models"), [("all", 3), ("best", 1), ("none", 0)])
def test_kept_points_are_files_of_the_result(tmp_path: Path, keep: str, models: int) -> None:
    options = {"base": MAGNITUDE, "over": {"amount.remove_units": [0.2, 0.4, 0.6]}, "keep": keep}
    found = many(tmp_path, options)
    kept = [point for point in found.points if point.artifact]
    assert models == len(kept)
    if keep == "best":
        assert [found.best] == [point.number for point in kept]
    files = [name for point in kept for name in (point.artifact, point.report)]
    assert [*files, "curve.csv", "curve.svg"] == listed(tmp_path)
    left = {path.name for path in tmp_path.glob("point-*")}
    assert set(files) == left
    for point in kept:
        onnx.checker.check_model(onnx.load(tmp_path / str(point.artifact)), full_check=True)


@pytest.mark.parametrize(("keep", "files"), [("all", 2), ("best", 1), ("none", 0)])
def test_weights_of_their_own_stay_with_the_points_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, files: int
) -> None:
    monkeypatch.setattr(shelf, "LARGE", 64)
    base = {**MAGNITUDE, "external_data": True}
    over = [{"amount": {"remove_units": share}} for share in (0.05, 0.1)]
    over.append({**over[1], "constraints": {"max_macs": 10**9}})  # the same model in the end
    found = many(tmp_path, {"base": base, "points": over, "keep": keep, "repeat": 2}, proto=wide())
    named = {name: sha for point in found.points for name, sha in point.artifact_external_sha256.items()}
    assert files == len(named)  # equal points have equal weights
    assert set(named) == {path.name for path in tmp_path.iterdir() if is_weights(path.name)}
    assert set(named) == set(filter(is_weights, listed(tmp_path)))
    for point in found.points:
        if point.artifact is not None:
            verify_artifact(tmp_path / point.artifact)


def test_more_models_than_anybody_stores_are_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "KEPT_BYTES", 10_000)
    options = {"base": MAGNITUDE, "over": {"amount.remove_units": [0.2, 0.4, 0.6]}}
    with pytest.raises(EspalierError, match=r"options_invalid: /keep.*10,000 are the most"):
        many(tmp_path / "all", {**options, "keep": "all"})
    assert 3 == len(many(tmp_path / "best", options).points)


def test_seeds_give_means_and_deviations(tmp_path: Path) -> None:
    base = {"criterion": {"name": "random"}, "amount": {"remove_units": 0.5}, "compensation": "none", "seed": 3}
    found = many(tmp_path, {"base": base, "points": [{}], "repeat": 3, "keep": "none"})
    (point,) = found.points
    scores = [one.score for one in point.runs]
    assert [3, 4, 5] == [one.seed for one in point.runs]
    assert len(set(scores)) > 1
    assert point.score is not None
    assert (pytest.approx(np.mean(scores)), pytest.approx(np.std(scores))) == (point.score.mean, point.score.std)
    for ran in point.runs:
        alone = job(tmp_path / str(ran.seed), {**base, "seed": ran.seed})
        assert alone.after.accuracy is not None
        assert alone.after.accuracy.score == ran.score
    assert "±" in (tmp_path / "report.md").read_text()


def test_a_point_that_cannot_be_run_is_a_row(tmp_path: Path) -> None:
    found = many(tmp_path, {"base": MAGNITUDE, "over": {"amount.keep_macs": [0.001, 0.6]}})
    lost, fine = found.points
    assert lost.failure is not None
    assert ("amount_unreachable", (), None) == (lost.failure.code, lost.runs, lost.score)
    assert (None, 2) == (fine.failure, found.best)
    assert "amount_unreachable" in (tmp_path / "report.md").read_text()
    rows = list(csv.DictReader((tmp_path / "curve.csv").read_text().splitlines()))
    assert [("1", "amount_unreachable", ""), ("2", "", str(fine.runs[0].score))] == [
        (row["point"], row["failure"], row["score"]) for row in rows
    ]
    with pytest.raises(EspalierError, match="amount_unreachable"):
        many(tmp_path / "none", {"base": MAGNITUDE, "over": {"amount.keep_macs": [0.001, 0.002]}})


def test_a_failure_to_observe_is_that_of_the_points_that_need_it(tmp_path: Path) -> None:
    scopes = [{"scope": {"include": ["fc1"]}}, {"scope": {"include": ["nowhere"]}}]
    found = many(tmp_path, {"base": {**MAGNITUDE, "amount": {"remove_units": 0.5}}, "points": scopes})
    assert [None, "scope_matches_nothing"] == [one.failure.code if one.failure else None for one in found.points]


def test_constraints_give_the_verdict_and_the_best_point(tmp_path: Path) -> None:
    def ask(name: str, **constraints: float) -> SweepReport:
        base = {**MAGNITUDE, "constraints": constraints}
        return many(tmp_path / name, {"base": base, "over": {"amount.remove_units": [0.08, 0.5, 0.8]}, "keep": "none"})

    free = ask("free", min_accuracy=0.0)
    assert (True, 3) == (free.verdict.met, free.best)
    scores = [point.score.mean for point in free.points if point.score]
    assert scores[0] > max(scores[1:])
    assert 1 == ask("accurate", min_accuracy=scores[0]).best
    none = ask("none", max_parameters=1)
    assert (False, None, 3) == (none.verdict.met, none.best, len(none.verdict.broken))
    assert "max_parameters" in none.verdict.broken[0]


def test_without_a_word_on_accuracy_a_hundredth_of_the_score_may_go(tmp_path: Path) -> None:
    found = many(tmp_path, {"base": MAGNITUDE, "over": {"amount.remove_units": [0.1, 0.9]}})
    changes = {one.number: one.score_change.mean for one in found.points if one.score_change}
    assert changes[2] < -0.01
    assert 1 == found.best
    blind = many(tmp_path / "b", {"base": MAGNITUDE, "over": {"amount.remove_units": [0.1, 0.9]}}, calibration=False)
    assert (None, True) == (blind.best, blind.verdict.met)
    assert "no data" in blind.warnings[0]


def test_progress_rises_from_point_to_point(tmp_path: Path) -> None:
    progress: list[Progress] = []
    many(tmp_path, {"base": MAGNITUDE, "over": {"amount.remove_units": [0.2, 0.5]}, "repeat": 2}, progress=progress)
    fractions = [one.fraction for one in progress]
    assert sorted(fractions) == fractions
    assert 1.0 == fractions[-1]
    stages = list(dict.fromkeys(one.stage for one in progress))
    assert ["load", "data", "analyse", "point 1 of 2", "point 2 of 2", "report"] == stages


def test_criteria_are_compared_with_random_beside_them(tmp_path: Path) -> None:
    options = {
        "criteria": [{"name": "magnitude"}, {"name": "distinctiveness"}],
        "amounts": [{"remove_units": 0.3}, {"remove_units": 0.6}],
        "keep": "all",
    }
    found = many(tmp_path, options, "compare")
    assert "compare" == found.kind
    names = [point.options.criterion.name for point in found.points]
    assert ["magnitude", "magnitude", "distinctiveness", "distinctiveness", "random", "random"] == names
    assert 6 == len({point.artifact_sha256 for point in found.points})
    text = (tmp_path / "report.html").read_text()
    assert 2 == text.count("<svg")
    assert all(point.series in text for point in found.points)
    again = SweepReport.model_validate_json((tmp_path / "report.json").read_bytes())
    assert found == again
    assert isinstance(again.options, CompareRequest)
    (warning,) = found.warnings
    assert "magnitude: none, distinctiveness: reconstruct, random: none" in warning
    alike = many(tmp_path / "alike", {**options, "base": {"compensation": "none"}}, "compare")
    assert () == alike.warnings


def test_weights_are_swept_by_what_is_not_zero(tmp_path: Path) -> None:
    base = {"criterion": {"name": "magnitude", "of": "weights"}}
    found = many(tmp_path, {"base": base, "over": {"amount.remove_weights": [0.3, 0.6]}})
    kept = [point.nonzero_parameters.mean for point in found.points if point.nonzero_parameters]
    assert kept[0] > kept[1]
    assert "nonzero parameters removed" in (tmp_path / "report.html").read_text()


def test_names_in_a_report_are_text(tmp_path: Path) -> None:
    scopes = [{"scope": {"include": ["*", "<script>alert(1)</script>"]}}]
    found = many(tmp_path, {"base": {**MAGNITUDE, "amount": {"remove_units": 0.5}}, "points": scopes})
    assert "<script>" in found.points[0].label
    assert "<script>" not in (tmp_path / "report.html").read_text()
    assert "<script>" not in (tmp_path / "report.md").read_text()


def test_the_report_says_what_was_asked(tmp_path: Path) -> None:
    options = {"base": MAGNITUDE, "over": {"amount.remove_units": [0.2]}}
    found = many(tmp_path, options)
    assert isinstance(found.points[0], SweepPoint)
    assert json.loads((tmp_path / "report.json").read_text())["options"]["over"] == options["over"]
