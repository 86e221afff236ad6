"""A published network on MNIST, through the service; what its report says is computed again from the bytes fetched."""

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from schemas.job import JobState
from schemas.report import ClassificationScore
from schemas.request import parse_options
from tests.system.conftest import ROOT, Running

DATA = Path(os.environ.get("ESPALIER_DATA") or ROOT / "../shared/data")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not (DATA / "seeds/cnn_mnist.onnx").is_file(), reason=f"no models and data in {DATA}"),
]


def confusion(model: bytes, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels against predictions, by onnxruntime alone."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.astype(np.float32)[:, None] / 255})
    table = np.zeros((10, 10), int)
    np.add.at(table, (labels, np.asarray(logits).argmax(1)), 1)
    return table


def test_cnn_mnist_with_8_bit_images(shared: Running, tmp_path: Path) -> None:
    with np.load(DATA / "mnist.npz") as mnist:
        seen = {"x": mnist["x_train"][:2000, None], "labels": mnist["y_train"][:2000]}
        images, labels = mnist["x_test"][:2000], mnist["y_test"][:2000]
    np.savez(tmp_path / "cal.npz", **seen)
    np.savez(tmp_path / "eval.npz", x=images[:, None], labels=labels)
    dense = DATA / "seeds/cnn_mnist.onnx"
    options = parse_options({"preprocess": {"scale": 255}})
    job = shared.client.submit(dense, options, calibration=tmp_path / "cal.npz", evaluation=tmp_path / "eval.npz")
    job = shared.client.wait(job.id)
    assert JobState.SUCCEEDED is job.state, job.failure
    shared.client.artifact(job.id, tmp_path / "pruned.onnx")
    report = shared.client.report(job.id)
    pruned = (tmp_path / "pruned.onnx").read_bytes()
    assert (dense.stat().st_size, len(pruned)) == (report.before.file_bytes, report.after.file_bytes)
    assert len(pruned) < dense.stat().st_size
    for model, side in ((dense.read_bytes(), report.before), (pruned, report.after)):
        table = confusion(model, images, labels)
        assert isinstance(side.accuracy, ClassificationScore)
        assert table.tolist() == [list(row) for row in side.accuracy.confusion]
        assert np.trace(table) / table.sum() == side.accuracy.score
        assert side.accuracy.score > 0.9
