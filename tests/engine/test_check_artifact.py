"""The outside check of a fetched file: it agrees with a true report and sees every false one."""

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.check_artifact import main, prepared
from schemas.report import ClassificationScore, Report
from schemas.request import Preprocess, parse_options
from tests.engine.nets import balanced, cnn, save
from worker.engine.data import InputSpec, read_samples
from worker.engine.run import InputFile, Inputs, Limits, prune


def as_input(path: Path) -> InputFile:
    return InputFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.name, path.stat().st_size)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with artifact.onnx, report.json and evaluation.npz of a job that had pixels of 0 to 255."""
    folder = tmp_path_factory.mktemp("job")
    model = save(balanced(cnn(), "fc2.bias"), folder)
    session = ort.InferenceSession(model)
    put = session.get_inputs()[0]
    for seed, name in enumerate(("calibration", "evaluation")):
        pixels = np.random.default_rng(seed).integers(0, 256, (60, *put.shape[1:]), np.uint8)
        labels = session.run(None, {put.name: pixels.astype(np.float32) / np.float32(255)})[0].argmax(1)
        np.savez(folder / f"{name}.npz", **{put.name: pixels}, y=labels)
    options = parse_options({"amount": {"remove_units": 0.5}, "preprocess": {"scale": 255}})
    files = [as_input(folder / f"{name}.npz") for name in ("calibration", "evaluation")]
    prune(options, Inputs(as_input(model), {}, *files), folder, Limits(1, 1 << 30), lambda _: None)
    return folder


def checked(folder: Path, report: Path | None = None) -> int:
    paths = (folder / "artifact.onnx", report or folder / "report.json", folder / "evaluation.npz")
    return main(["files", *map(str, paths)])


def test_a_true_report_passes(finished, capsys):
    assert checked(finished) == 0
    assert "DIFFERENT" not in capsys.readouterr().out


def test_every_false_statement_is_seen(finished, tmp_path, capsys):
    report = Report.model_validate_json((finished / "report.json").read_bytes())
    score = report.after.accuracy
    assert isinstance(score, ClassificationScore)
    better = score.model_copy(update={"score": score.score + 0.01})
    turned = score.model_copy(update={"confusion": score.confusion[::-1]})
    false = {
        "accuracy": report.model_copy(update={"after": report.after.model_copy(update={"accuracy": better})}),
        "artifact bytes": report.model_copy(update={"after": report.after.model_copy(update={"file_bytes": 1})}),
        "artifact sha256": report.model_copy(
            update={"provenance": report.provenance.model_copy(update={"artifact_sha256": "0" * 64})}
        ),
        "confusion matrix": report.model_copy(update={"after": report.after.model_copy(update={"accuracy": turned})}),
    }
    for name, one in false.items():
        (tmp_path / "report.json").write_text(one.model_dump_json(by_alias=True))
        assert checked(finished, tmp_path / "report.json") == 1
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(name)]
        assert [line.endswith("DIFFERENT") for line in lines] == [True]


def test_the_formula_written_twice_is_the_same(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    options = Preprocess(scale=255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), layout="NHWC", channels="BGR")
    spec = InputSpec("x", np.dtype(np.float32), (None, 3, 4, 6))
    ours = read_samples(tmp_path / "x.npy", [spec], options, max_bytes=1 << 20, role="evaluation", batch=None)
    np.testing.assert_array_equal(prepared(pixels, options), ours.inputs["x"])
