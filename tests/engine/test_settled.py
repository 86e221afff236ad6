"""Sizes that the file settles become numbers; open ones stay computed; heads split at run time prune."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.engine.dissect import dissect, run
from tests.engine.nets import Node, model
from worker.engine import load as loading


def heads_at_run_time() -> onnx.ModelProto:
    """Multi-head attention as torch writes it: steps first, samples times heads in one axis, the scale a root of a
    size; four heads of three, the number of samples open."""
    nodes = [
        Node(
            "Transpose",
            [
                "x",
            ],
            "t",
            {"perm": [1, 0, 2]},
        ),
        Node("Shape", ["t"], "size"),
        Node("Gather", ["size", "0"], "steps"),
        Node("Gather", ["size", "1"], "samples"),
        Node("Gather", ["size", "2"], "width"),
        Node("Div", ["width", "4"], "depth"),
        Node("Mul", ["samples", "4"], "rows"),
        *(Node("Unsqueeze", [one, "front"], f"{one}1") for one in ("steps", "samples", "width", "depth", "rows")),
        Node("Concat", ["steps1", "rows1", "depth1"], "apart", {"axis": 0}),
        Node("Cast", ["depth"], "depthf", {"to": onnx.TensorProto.FLOAT}),
        Node("Sqrt", ["depthf"], "root"),
    ]
    for name, perm in (("q", [1, 0, 2]), ("k", [1, 2, 0]), ("v", [1, 0, 2])):
        nodes += [
            Node("MatMul", ["t", f"w{name}"], f"{name}0"),
            Node("Reshape", [f"{name}0", "apart"], f"{name}1"),
            Node("Transpose", [f"{name}1"], name, {"perm": perm}),
        ]
    nodes += [
        Node("MatMul", ["q", "k"], "s"),
        Node("Div", ["s", "root"], "sr"),
        Node("Softmax", ["sr"], "p", {"axis": -1}),
        Node("MatMul", ["p", "v"], "o"),
        Node("Transpose", ["o"], "ot", {"perm": [1, 0, 2]}),
        Node("Concat", ["steps1", "samples1", "width1"], "together", {"axis": 0}),
        Node("Reshape", ["ot", "together"], "j"),
        Node("MatMul", ["j", "wo"], "y"),
    ]
    numbers = {"0": np.array(0), "1": np.array(1), "2": np.array(2), "4": np.array(4), "front": np.array([0])}
    weights = {**{f"w{one}": (12, 12) for one in "qkv"}, "wo": (12, 5)}
    return model(nodes, {**weights, **numbers}, {"x": ["N", 5, 12]}, ["y"])


def test_heads_that_are_split_at_run_time_go_whole(tmp_path: Path) -> None:
    dissected = dissect(heads_at_run_time(), tmp_path)
    assert {"q0": 4} == {group.name: group.units for group in dissected.analysis.groups}
    for seed in (0, 1):
        proof = dissected.proof(dissected.random_half(seed))
        assert proof.passed
        assert proof.mask_has_effect
    shapes = {one.name: tuple(one.dims) for one in dissected.cut({"q0": (2,)}).graph.initializer}
    assert [(12, 9)] * 3 == [shapes[f"w{one}"] for one in "qkv"]
    assert (9, 5) == shapes["wo"]


def test_the_model_computes_what_it_did_for_any_number_of_samples(tmp_path: Path) -> None:
    proto = heads_at_run_time()
    dissected = dissect(proto, tmp_path)
    settled = dissected.cut({"q0": ()})
    for samples in (1, 3):
        feeds = {"x": dissected.feeds["x"][:samples]}
        np.testing.assert_allclose(run(settled, feeds)[0], run(proto, feeds)[0], rtol=1e-5, atol=1e-6)


def test_only_what_depends_on_open_dimensions_stays_computed(tmp_path: Path) -> None:
    graph = dissect(heads_at_run_time(), tmp_path).graph
    left = [op.key for op in graph.ops if op.key in ("Shape", "Gather", "Div", "Mul", "Cast", "Sqrt")]
    assert ["Shape", "Gather", "Div"] == left  # the number of samples, and the scores over their root
    opened = next(op for op in graph.ops if op.outputs[0] == "apart")
    values = [graph.constants[name].ravel().tolist() if name in graph.constants else None for name in opened.inputs]
    assert [[5], [-1], [3]] == values


def test_the_uploaded_model_is_left_as_it_was(tmp_path: Path) -> None:
    proto = heads_at_run_time()
    before = proto.SerializeToString()
    loaded = dissect(proto, tmp_path).loaded
    assert before == loaded.proto.SerializeToString()


def test_without_settling_the_heads_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "settle_sizes", lambda _: None)
    assert [] == dissect(heads_at_run_time(), tmp_path).names()


def test_what_the_file_says_of_values_between_is_not_believed(tmp_path: Path) -> None:
    """Exporters leave the sizes of their example in the file."""
    proto = heads_at_run_time()
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, [5, 2, 12]))
    dissected = dissect(proto, tmp_path)
    gathered = [op for op in dissected.graph.ops if op.key == "Gather"]
    assert ["samples"] == [op.outputs[0] for op in gathered]


def test_behind_an_operator_that_onnx_does_not_know_sizes_stay_open(tmp_path: Path) -> None:
    nodes = [Node("MatMul", ["x", "v"], "h"), Node("Shape", ["h"], "size"), Node("Reshape", ["h", "size"], "r")]
    proto = model([*nodes, Node("Tanh", ["r"], "a"), Node("MatMul", ["a", "w"], "y")],
                  {"v": (4, 6), "w": (6, 3)}, {"x": ["N", 4]}, ["y"])  # fmt: skip
    proto.graph.node[0].CopyFrom(Node("FusedMatMul", ["x", "v"], "h", domain="com.microsoft").proto())
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    dissected = dissect(proto, tmp_path)
    np.testing.assert_allclose(
        run(dissected.cut({}), dissected.feeds)[0], run(proto, dissected.feeds)[0], rtol=1e-6, atol=1e-6
    )
