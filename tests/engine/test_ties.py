"""What is free, what is pinned, and the reason that the user reads."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from tests.engine.dissect import dissect, run
from tests.engine.nets import IMAGE, Node, conv, gemm, layer, mlp, model
from worker.engine.execute import Executor, to_numpy


def reasons(proto: onnx.ModelProto, folder: Path) -> dict[str, tuple[str, str]]:
    return {stay.layer.name: (stay.code, stay.message) for stay in dissect(proto, folder).analysis.stays}


def test_the_last_layer_stays_because_callers_rely_on_the_output(tmp_path: Path) -> None:
    assert {"fc3": ("graph_output", "'y' is an output of the model: callers rely on its size")} == reasons(
        mlp(), tmp_path
    )


def test_a_layer_without_units_stays(tmp_path: Path) -> None:
    nodes = [Node("MatMul", ["x", "w1"], "h"), Node("MatMul", ["h", "w2"], "y")]
    weights = {"w1": np.zeros((4, 0), np.float32), "w2": np.zeros((0, 3), np.float32)}
    told = reasons(model(nodes, weights, {"x": ("n", 4)}, ["y"]), tmp_path)
    assert ("single_unit", "the layer has no unit at all") in told.values()


def with_middle(*middle: Node, **weights: np.ndarray) -> onnx.ModelProto:
    """conv -> middle nodes -> conv -> pool -> fc."""
    nodes = [
        conv("c1", "x", "a"),
        *middle,
        conv("c2", "b", "c"),
        Node("GlobalAveragePool", ["c"], "g"),
        Node("Flatten", ["g"], "f"),
        gemm("fc", "f", "y"),
    ]
    known = {**layer("c1", 6, 3, 3, 3), **layer("c2", 5, 6, 3, 3), **layer("fc", 4, 5)}
    return model(nodes, {**known, **weights}, IMAGE, ["y"])


def test_an_unknown_operator_pins_and_is_named(tmp_path: Path) -> None:
    found = reasons(with_middle(Node("RandomNormalLike", ["a"], "b")), tmp_path)
    assert "operator_unknown" == found["c1"][0]
    assert "RandomNormalLike '/b/RandomNormalLike'" in found["c1"][1]


def test_a_custom_domain_is_not_taken_for_the_operator_of_the_same_name(tmp_path: Path) -> None:
    proto = with_middle(Node("Relu", ["a"], "b"))
    assert "c1" not in reasons(proto, tmp_path)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    proto.graph.node[1].domain = "com.microsoft"
    proto.graph.node[1].op_type = "QuickGelu"
    assert "operator_unknown" == reasons(proto, tmp_path)["c1"][0]


def test_softmax_over_the_channels_pins_them(tmp_path: Path) -> None:
    assert "normalised" == reasons(with_middle(Node("Softmax", ["a"], "b", {"axis": 1})), tmp_path)["c1"][0]
    assert "c1" not in reasons(with_middle(Node("Softmax", ["a"], "b", {"axis": 3})), tmp_path)


def test_a_mean_over_the_channels_pins_them(tmp_path: Path) -> None:
    node = Node("ReduceMean", ["a"], "m", {"axes": [1], "keepdims": 1})
    proto = with_middle(node, Node("Mul", ["a", "m"], "b"))
    code, message = reasons(proto, tmp_path)["c1"]
    assert "axis_mixed" == code
    assert "ReduceMean '/m/ReduceMean'" in message


def test_a_size_that_is_used_as_data_pins_its_axis(tmp_path: Path) -> None:
    def divided_by_size(axis: int) -> onnx.ModelProto:
        return with_middle(
            Node("Shape", ["a"], "shape"),
            Node("Gather", ["shape", "axis"], "channels", {"axis": 0}),
            Node("Cast", ["channels"], "size", {"to": onnx.TensorProto.FLOAT}),
            Node("Div", ["a", "size"], "b"),
            axis=np.array(axis),
        )

    proto = divided_by_size(2)
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    ties = dissect(proto, tmp_path, given={"x": np.ones((2, 3, 8, 8), np.float32)}).analysis.ties
    held = {pin.code for pin in ties.pins if pin.points[0] == ties.points(("a", 2))[0]}
    assert "size_is_data" in held
    assert "c1" not in reasons(proto, tmp_path)  # its channels are another axis
    # How many channels there are is settled by the weights: a number, which stays what it was.
    settled = dissect(divided_by_size(1), tmp_path)
    assert {"c1", "c2"} == set(settled.names())
    assert settled.proof(settled.random_half()).passed


def test_an_output_in_the_middle_pins_the_layer_that_makes_it(tmp_path: Path) -> None:
    proto = mlp()
    proto.graph.output.append(helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["N", 10]))
    assert {"fc1", "fc3"} == set(reasons(proto, tmp_path))


def test_a_weight_that_is_computed_from_another_keeps_its_size(tmp_path: Path) -> None:
    """The stem's stream is also written by a MatMul whose weight is normalised when the model runs."""
    nodes = [
        gemm("fc1", "x", "h"),
        Node("Softmax", ["w"], "wt", {"axis": 0}),
        Node("MatMul", ["x", "wt"], "m"),
        Node("Add", ["h", "m"], "s"),
        gemm("fc2", "s", "y"),
    ]
    proto = model(nodes, {**layer("fc1", 10, 12), "w": (12, 10), **layer("fc2", 4, 10)}, {"x": ["N", 12]}, ["y"])
    assert "computed_constant" == reasons(proto, tmp_path)["fc1"][0]


def test_silence_pins(tmp_path: Path) -> None:
    """(2, 5) read as (5, 2) have no factors in common: a Reshape says nothing of them, the layer stays and says why."""
    nodes = [
        gemm("fc1", "x", "h"),
        Node("Reshape", ["h", "split"], "r"),
        Node("Reshape", ["r", "other"], "o"),
        Node("Reshape", ["o", "join"], "j"),
        gemm("fc2", "j", "y"),
    ]
    weights = {**layer("fc1", 10, 12), **layer("fc2", 4, 10)}
    shapes = {"split": np.array([0, 2, 5]), "other": np.array([0, 5, 2]), "join": np.array([0, 10])}
    found = reasons(model(nodes, {**weights, **shapes}, {"x": ["N", 12]}, ["y"]), tmp_path)
    assert "axis_mixed" == found["fc1"][0]


def test_layers_are_called_by_the_names_their_authors_gave(tmp_path: Path) -> None:
    analysis = dissect(mlp(), tmp_path).analysis
    assert ["fc1", "fc2", "fc3"] == [layer.name for layer in analysis.layers]
    assert ("fc1", "/h/Gemm", "fc1.weight") == analysis.layers[0].aliases


BATCH = ("scale", "bias", "mean", "var")


def test_a_normalisation_of_one_axis_has_one_channel(tmp_path: Path) -> None:
    """Its only axis is that of the samples: what was flattened into it stays, and the executor agrees."""
    nodes = [
        gemm("fc1", "x", "h"),
        Node("Reshape", ["h", "flat"], "r"),
        Node("BatchNormalization", ["r", *BATCH], "b"),
        Node("Reshape", ["b", "rows"], "j"),
        gemm("fc2", "j", "y"),
    ]
    one = {
        name: np.array([value], np.float32) for name, value in (("scale", 2), ("bias", 1), ("mean", 0.5), ("var", 4))
    }
    weights = {**layer("fc1", 6, 12), **layer("fc2", 4, 6), "flat": np.array([-1]), "rows": np.array([-1, 6])}
    dissected = dissect(model(nodes, {**weights, **one}, {"x": ["N", 12]}, ["y"]), tmp_path)
    assert {"fc1", "fc2"} == {stay.layer.name for stay in dissected.analysis.stays}
    found = to_numpy(Executor(dissected.graph).run(dissected.feeds)["y"])
    np.testing.assert_allclose(run(dissected.loaded.proto, dissected.feeds)[0], found, rtol=1e-4, atol=1e-5)
