"""Samples that are not counted on the first axis, and inputs that are given once: found, said, fed, cut and judged."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from schemas.errors import EspalierError
from schemas.inspect_request import InspectRequest
from schemas.report import Report
from schemas.request import Preprocess, parse_options
from tests.engine.nets import Node, gemm, layer, model, save
from tests.engine.test_run import HALF, as_input
from worker.engine.data import InputSpec, Samples, read_samples, split
from worker.engine.inspect import inspect
from worker.engine.run import Inputs, Limits, prune
from worker.engine.sample_axes import Axes, Dims, find_axes

ROOT = Path(__file__).parents[2]
FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize(
    ("inputs", "axes"),
    [
        ({"x": ("N", 3), "z": ("N", 4)}, {"x": 0, "z": 0}),
        ({"x": ("T", "N", 5)}, {"x": 0}),
        ({"x": ("batch_x", "seq"), "m": ("batch_m", "seq")}, {"x": 0, "m": 0}),
        ({"x": (None, None), "state": (2, None, 128), "sr": ()}, {"x": 0, "state": 1, "sr": None}),
        ({"x": ("u0", "u1"), "state": (2, "u2", 128), "sr": ()}, {"x": 0, "state": 1, "sr": None}),
        ({"x": ("N", 9), "state": (2, "N", 128)}, {"x": 0, "state": 1}),
        ({"x": ("T", "N", 5), "h0": (1, "N", 6)}, {"x": 1, "h0": 1}),
        ({"ids": ("batch", "seq"), "places": (1, "seq")}, {"ids": 0, "places": None}),
        ({"x": ("N", 3), "table": (4, 4)}, {"x": 0, "table": None}),
        ({"x": (1, 576), "state": (2, 1, 128), "sr": ()}, {"x": 0, "state": 1, "sr": None}),
        ({"x": (8, 3), "z": (8, 8)}, {"x": 0, "z": 0}),
        ({"x": (8, 3), "z": (4, 2)}, {"x": 0, "z": None}),
        ({"x": (5, "N", 4)}, {"x": 1}),
        ({"x": (1, 3, "H", "W")}, {"x": 0}),
    ],
)
def test_the_axis_is_found(inputs: Mapping[str, Dims], axes: Axes) -> None:
    assert axes == find_axes(inputs, {}, {})


def test_outputs_follow_the_name_and_the_request_goes_first() -> None:
    inputs: dict[str, Dims] = {"x": ("T", "N", 5), "h0": (1, "N", 6)}
    outputs: dict[str, Dims] = {"y": ("T", "N", 3), "c": (4, 3)}
    assert {"x": 1, "h0": 1, "y": 1, "c": 0} == find_axes(inputs, outputs, {})
    assert {"x": 0, "h0": None, "y": 0, "c": 1} == find_axes(inputs, outputs, {"x": 0, "h0": None, "c": 1})


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [({"stat": 1}, "data_input_unknown", "'state'"), ({"state": 3}, "data_shape_mismatch", "3 axes")],
)
def test_what_the_model_does_not_have_is_refused(asked: Axes, code: str, words: str) -> None:
    with pytest.raises(EspalierError) as caught:
        find_axes({"x": ("N", 3), "state": (2, "N", 4)}, {}, asked)
    assert (code, "/sample_axes") == (caught.value.code, caught.value.failure.where)
    assert words in caught.value.failure.detail


SPECS = (
    InputSpec("x", FLOAT, (None, 3)),
    InputSpec("state", FLOAT, (2, None, 4), 1),
    InputSpec("rate", np.dtype(np.int64), (), None),
)


def sent(folder: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    arrays = {"x": rng.random((10, 3)), "state": rng.random((2, 10, 4)), "rate": np.array(7), "labels": np.arange(10)}
    np.savez(folder / "data.npz", **{**arrays, **changes})
    return folder / "data.npz"


def read(path: Path) -> Samples:
    return read_samples(path, SPECS, Preprocess(), max_bytes=1 << 20, role="calibration", batch=None)


def test_samples_are_taken_along_their_axes(tmp_path: Path) -> None:
    samples = read(sent(tmp_path))
    assert 10 == samples.count
    part = samples.rows(2, 5)
    assert ((3, 3), (2, 3, 4), ()) == tuple(array.shape for array in part.inputs.values())
    some = samples.take(np.array([7, 1]))
    np.testing.assert_array_equal(some.inputs["state"][:, 1], samples.inputs["state"][:, 1])
    assert [7, 1] == some.labels.tolist()  # type: ignore[union-attr]
    assert [4, 4, 2] == [one.count for one in samples.batches(4)]


def test_samples_that_follow_others_are_joined_along_their_axes() -> None:
    numbers = np.arange(24.0)
    whole = Samples(
        {"x": numbers.reshape(6, 4), "state": numbers.reshape(2, 6, 2), "rate": np.array(16_000)},
        axes={"x": 0, "state": 1, "rate": None},
    )
    again = whole.rows(0, 2).followed_by(whole.rows(2, 6))
    assert whole.count == again.count
    assert whole.axes == again.axes
    for name, array in whole.inputs.items():
        np.testing.assert_array_equal(array, again.inputs[name])


def test_a_split_parts_every_input(tmp_path: Path) -> None:
    samples = read(sent(tmp_path))
    parts = split(samples, None, 0)
    assert parts.fit is not None
    assert parts.held_back is not None
    assert ((2, 6, 4), (2, 2, 4)) == (parts.fit.inputs["state"].shape, parts.held_back.inputs["state"].shape)
    twice = read(sent(tmp_path, x=np.ones((10, 3)), state=np.ones((2, 10, 4))))
    assert 9 == split(twice, None, 0).use.duplicates_dropped


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"state": np.ones((10, 2, 4))}, "data_shape_mismatch", "(2, samples, 4)"),
        ({"state": np.ones((2, 9, 4))}, "data_shape_mismatch", "'state' 9"),
        ({"rate": np.ones(10, np.int64)}, "data_shape_mismatch", "one number for all samples"),
        ({"state": np.where(np.arange(80).reshape(2, 10, 4) == 53, np.nan, 0)}, "data_not_finite", "sample 3"),
    ],
)
def test_what_does_not_fit_is_said(changes: dict[str, object], code: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(EspalierError) as caught:
        read(sent(tmp_path, **changes))
    assert code == caught.value.code
    assert words in caught.value.failure.detail


def carried() -> onnx.ModelProto:
    """One step of a network that carries a state (layers, samples, width) and is told a rate."""
    nodes = [
        gemm("fc1", "x", "h"),
        Node("ReduceSum", ["state", "front"], "s", {"keepdims": 0}),
        Node("Add", ["h", "s"], "a"),
        Node("Relu", ["a"], "r"),
        Node("Mul", ["r", "rate"], "m"),
        gemm("fc2", "m", "n"),
        Node("Relu", ["n"], "o"),
        gemm("fc3", "o", "y"),
        Node("Identity", ["state"], "next"),
    ]
    weights = {**layer("fc1", 6, 5), **layer("fc2", 8, 6), **layer("fc3", 4, 8), "front": np.array([0])}
    outputs = {"y": ["N", 4], "next": [2, "N", 6]}
    return model(nodes, weights, {"x": ["N", 5], "state": [2, "N", 6], "rate": []}, outputs)


def run(
    folder: Path, options: Mapping[str, object], proto: onnx.ModelProto, data: bool = True, **changes: object
) -> Report:
    folder.mkdir()
    rng = np.random.default_rng(1)
    arrays = {"x": rng.random((30, 5)), "state": rng.random((2, 30, 6)), "rate": np.array(2.0)}
    np.savez(folder / "data.npz", **{**arrays, "labels": rng.integers(0, 4, 30), **changes})
    calibration = as_input(folder / "data.npz") if data else None
    inputs = Inputs(as_input(save(proto, folder)), {}, calibration, None, None)
    return prune(parse_options(options), inputs, folder, Limits(1, 1 << 30), lambda _: None)


@pytest.mark.parametrize("options", [HALF, {"amount": {"remove_units": 0.5}, "compensation": "project"}])
def test_a_whole_job_feeds_a_carried_state(options: dict[str, object], tmp_path: Path) -> None:
    report = run(tmp_path / "job", options, carried())
    assert {"fc2"} == {layer.name for layer in report.layers if layer.units_after < layer.units_before}
    assert report.exactness.passed
    assert report.exactness.mask_has_effect
    assert 18 == report.data.fit_samples


def test_without_data_it_is_fed_noise(tmp_path: Path) -> None:
    assert run(tmp_path / "job", HALF, carried(), data=False).exactness.passed


def test_an_output_that_counts_samples_elsewhere_is_judged(tmp_path: Path) -> None:
    report = run(tmp_path / "job", {**HALF, "evaluation": {"output": "next", "task": "fidelity"}}, carried())
    assert report.after.accuracy is not None
    assert 6 == report.data.evaluation_samples


def test_the_option_says_what_cannot_be_found(tmp_path: Path) -> None:
    """One state that stands for all samples."""
    proto, state = carried(), np.ones((2, 1, 6))
    for port in (proto.graph.input[1], proto.graph.output[1]):
        port.type.tensor_type.shape.dim[1].dim_param = "M"
    with pytest.raises(EspalierError) as caught:
        run(tmp_path / "found", HALF, proto, state=state)
    assert "'state' 1" in caught.value.failure.detail
    told = {**HALF, "sample_axes": {"state": None}, "evaluation": {"output": "y"}}
    assert run(tmp_path / "told", told, proto, state=state).exactness.passed


def test_sizes_that_do_not_fit_each_other_are_the_models(tmp_path: Path) -> None:
    """Found to be the same for all samples, for nothing in the file says that it is not."""
    proto = carried()
    proto.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 30
    with pytest.raises(EspalierError) as caught:
        run(tmp_path / "job", HALF, proto)
    assert "model_does_not_run" == caught.value.code


SPEECH = Path(os.environ.get("ESPALIER_DATA") or ROOT / "../shared/data") / "silero_vad.onnx"


@pytest.mark.data
@pytest.mark.skipif(not SPEECH.is_file(), reason=f"no models and data in {SPEECH.parent}")
@pytest.mark.parametrize("samples", [0, 5])
def test_a_published_network_with_a_state_and_a_rate_is_inspected(samples: int, tmp_path: Path) -> None:
    """No dimension of it has a name, and all its weights lie in branches."""
    calibration = None
    if samples:
        arrays = {"input": np.zeros((samples, 576), np.float32), "state": np.zeros((2, samples, 128), np.float32)}
        np.savez(tmp_path / "data.npz", **arrays, sr=np.array(16000))
        calibration = as_input(tmp_path / "data.npz")
    inputs = Inputs(as_input(SPEECH), {}, calibration, None, None)
    found = inspect(InspectRequest(), inputs, tmp_path, Limits(1, 1 << 30), lambda _: None)
    assert (None if samples else 128) == found.open_size
    assert ["inside_branches"] == [one.reason for one in found.untouched]
    assert found.coverage.parameters == found.untouched[0].parameters > 500_000
