"""Eight bits: the file is smaller and says nearly the same; each option counts; what cannot be rounded is refused."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from schemas.errors import EspalierError
from schemas.finishing import Quantize
from tests.engine.nets import Node, cnn, conv, feeds_for, gemm, layer, model, save
from worker.engine import evaluate
from worker.engine.data import Samples
from worker.engine.quantize import quantize


def wide() -> onnx.ModelProto:
    """Large enough for its weights to outweigh the names of its nodes."""
    nodes = [gemm("fc1", "x", "h"), Node("Relu", ["h"], "a"), gemm("fc2", "a", "y")]
    return model(nodes, {**layer("fc1", 64, 300), **layer("fc2", 50, 64)}, {"x": ("N", 300)}, ["y"])


def rounded(folder: Path, proto: onnx.ModelProto, batch: int | None = None, **options: str) -> Path:
    target = folder / ("-".join(options.values()) + "int8.onnx")
    samples = Samples(feeds_for(proto, 40))
    quantize(save(proto, folder), target, samples, batch, Quantize.model_validate(options))
    return target


def outputs(path: Path, proto: onnx.ModelProto) -> np.ndarray:
    found = evaluate.session(path).run(None, feeds_for(proto, 16, seed=9))
    return np.asarray(found[0])


def test_a_quarter_of_the_bytes_say_nearly_the_same(tmp_path: Path) -> None:
    proto = wide()
    path = rounded(tmp_path, proto)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    dense, small = outputs(save(proto, tmp_path), proto), outputs(path, proto)
    assert path.stat().st_size < 0.3 * len(proto.SerializeToString())
    assert 0 < np.abs(dense - small).max() < 0.1 * np.abs(dense).max()


@pytest.mark.parametrize("options", [{"weights": "per_tensor"}, {"ranges": "percentile"}])
def test_every_option_changes_the_outcome(options: dict[str, str], tmp_path: Path) -> None:
    proto = wide()
    assert not np.array_equal(
        outputs(rounded(tmp_path, proto), proto), outputs(rounded(tmp_path, proto, **options), proto)
    )


def test_no_option_is_without_such_a_test() -> None:
    assert {"weights", "ranges"} == set(Quantize.model_fields)


def test_names_that_callers_know_stay_and_new_ones_are_short(tmp_path: Path) -> None:
    proto = cnn()
    found = onnx.load(rounded(tmp_path, proto))
    known = {one.name for one in proto.graph.initializer} | {name for node in proto.graph.node for name in node.output}
    made = {name for node in found.graph.node for name in node.output} - known
    assert [one.name for one in proto.graph.output] == [one.name for one in found.graph.output]
    assert made
    assert 8 > max(map(len, made))


def test_biases_have_no_zero_points_and_layers_still_run_in_eight_bits(tmp_path: Path) -> None:
    path = rounded(tmp_path, cnn())
    found = onnx.load(path)
    stored = {one.name: one for one in found.graph.initializer}
    rounds = [node.input for node in found.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored]
    biases = [inputs for inputs in rounds if stored[inputs[0]].data_type == onnx.TensorProto.INT32]
    assert 0 < len(biases) < len(rounds)
    assert all(2 == len(inputs) for inputs in biases)
    assert set(stored) == {name for node in found.graph.node for name in node.input} & set(stored)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    fused = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert {"QLinearConv", "QGemm"} <= fused
    assert not {"Conv", "Gemm"} & fused


def test_what_goes_without_saying_is_left_out_and_the_rest_stays(tmp_path: Path) -> None:
    nodes = [
        conv("c1", "x", "a", 0, strides=[2, 2], dilations=[1, 1], group=1),
        Node("Relu", ["a"], "r"),
        Node("MaxPool", ["r"], "m", {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [1, 1, 0, 0], "ceil_mode": 0}),
        Node("Flatten", ["m"], "f", {"axis": 1}),
        Node("Gemm", ["f", "fc.weight", "fc.bias"], "y", {"alpha": 0.5, "beta": 1.0, "transB": 1}),
    ]
    proto = model(nodes, {**layer("c1", 4, 3, 3, 3), **layer("fc", 6, 36)}, {"x": ("N", 3, 8, 8)}, {"y": ("N", 6)})
    path = rounded(tmp_path, proto)
    found = onnx.load(path)
    said = {node.op_type: {one.name for one in node.attribute} for node in found.graph.node}
    assert {"strides"} == said["Conv"]
    assert {"kernel_shape", "pads"} == said["MaxPool"]
    assert set() == said["Flatten"]
    assert {"alpha", "transB"} == said["Gemm"]
    assert {0} == {
        onnx.helper.get_attribute_value(one)
        for node in found.graph.node
        for one in node.attribute
        if node.op_type == "DequantizeLinear"
    }  # of columns it would be 1, as it is where nothing is said
    assert not [one for one in found.metadata_props if one.key == "onnx.infer"]
    dense, small = outputs(save(proto, tmp_path), proto), outputs(path, proto)
    assert np.abs(dense - small).max() < 0.1 * np.abs(dense).max()


def test_equal_zeros_are_stored_once(tmp_path: Path) -> None:
    found = onnx.load(rounded(tmp_path, cnn()))
    stored = [
        onnx.numpy_helper.to_array(one).item()
        for one in found.graph.initializer
        if one.data_type == onnx.TensorProto.INT8 and not one.dims
    ]
    reads = [node.input[2] for node in found.graph.node if node.op_type == "QuantizeLinear"]
    assert len(stored) == len(set(stored)) < len(reads)
    assert set(reads) <= {one.name for one in found.graph.initializer}


def test_scales_for_each_channel_need_an_opset_that_has_them(tmp_path: Path) -> None:
    proto = wide()
    proto.opset_import[0].version = 11
    with pytest.raises(EspalierError) as caught:
        rounded(tmp_path, proto)
    assert "quantize_failed" == caught.value.code
    assert "opset 11" in caught.value.failure.detail


def test_what_the_quantiser_says_of_a_model_it_cannot_take_is_passed_on(tmp_path: Path) -> None:
    proto = wide()
    path = save(proto, tmp_path)
    with pytest.raises(EspalierError) as caught:
        quantize(path, tmp_path / "q.onnx", Samples({"other": np.zeros((4, 3), np.float32)}), None, Quantize())
    assert "quantize_failed" == caught.value.code
    assert "other" in caught.value.failure.detail
