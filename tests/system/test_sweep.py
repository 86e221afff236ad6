"""Sweeps and comparisons with the processes that a user starts."""

import hashlib
from pathlib import Path

import onnx

from schemas.job import JobState
from schemas.sweep import parse_comparison, parse_sweep
from tests.system.conftest import Running, Work

MAGNITUDE = {"criterion": {"name": "magnitude"}}


def test_a_sweep_leaves_its_models_and_curves(shared: Running, digits: Path, tmp_path: Path) -> None:
    kept = shared.left_on_disk()
    request = parse_sweep({"base": MAGNITUDE, "over": {"amount.remove_units": [0.2, 0.5]}, "keep": "all"})
    job = shared.client.submit(digits / "digits.onnx", request, calibration=digits / "calibration.npz")
    stages = list(dict.fromkeys(one.progress.stage for one in shared.client.events(job.id) if one.progress))
    job = shared.client.wait(job.id)
    assert JobState.SUCCEEDED is job.state, job.failure
    assert stages[-1].startswith(("point", "report"))
    assert (None, True) == (job.links.artifact, job.result is not None and job.result.verdict.met)
    report = shared.client.sweep_report(job.id)
    names = [one.name for one in shared.client.artifacts(job.id)]
    models = ["point-01.onnx", "point-01.json", "point-02.onnx", "point-02.json"]
    assert ["report.json", "report.html", "report.md", *models, "curve.csv", "curve.svg"] == names
    for point in report.points:
        path = tmp_path / str(point.artifact)
        shared.client.download(job.id, path.name, path)
        assert point.artifact_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        onnx.checker.check_model(onnx.load(path), full_check=True)
    assert "<svg" in shared.client.report_document(job.id, "html").decode()
    shared.client.delete(job.id)
    assert shared.adds_nothing_to(kept), shared.left_on_disk()


def test_a_comparison_has_random_beside_it(shared: Running, digits: Path) -> None:
    request = parse_comparison({"criteria": [{"name": "magnitude"}], "amounts": [{"remove_units": 0.4}]})
    job = shared.client.submit(digits / "digits.onnx", request, calibration=digits / "calibration.npz")
    job = shared.client.wait(job.id)
    assert JobState.SUCCEEDED is job.state, job.failure
    report = shared.client.sweep_report(job.id)
    assert ["magnitude", "random"] == [point.options.criterion.name for point in report.points]


def test_a_running_sweep_is_cancelled(shared: Running, long_work: Work) -> None:
    kept = shared.left_on_disk()
    request = parse_sweep({"base": {"compensation": "none"}, "over": {"criterion.angle_deg": [10, 20, 30, 40]}})
    job = shared.client.submit(long_work.model, request, calibration=long_work.calibration)
    assert next(event.progress.stage for event in shared.client.events(job.id) if event.progress)
    shared.client.cancel(job.id)
    assert JobState.CANCELLED is shared.client.wait(job.id).state
    assert shared.adds_nothing_to(kept), shared.left_on_disk()
