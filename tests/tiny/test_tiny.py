"""One whole pruning job in about a second: what runs before every commit."""

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime as ort

from schemas.request import parse_options
from tests.engine.nets import balanced, cnn, feeds_for, save
from worker.engine.run import InputFile, Inputs, Limits, prune


def as_input(path: Path) -> InputFile:
    return InputFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.name, path.stat().st_size)


def test_a_small_network_becomes_smaller_and_still_runs(tmp_path: Path) -> None:
    proto = balanced(cnn(), "fc2.bias")
    np.savez(tmp_path / "calibration.npz", **feeds_for(proto, 60))
    inputs = Inputs(as_input(save(proto, tmp_path)), {}, as_input(tmp_path / "calibration.npz"), None)
    options = parse_options({"criterion": {"name": "distinctiveness", "angle_deg": 60}})
    report = prune(options, inputs, tmp_path, Limits(1, 1 << 30), lambda _: None)
    assert report.exactness.passed
    assert report.after.parameters < report.before.parameters
    session = ort.InferenceSession(tmp_path / "artifact.onnx", providers=["CPUExecutionProvider"])
    assert (5, 4) == session.run(None, feeds_for(proto, 5))[0].shape
