"""What is computed from constants becomes one: weights behind other operators prune, and nothing is held twice."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.engine.dissect import dissect, run
from tests.engine.nets import ROW, Node, feeds_for, gemm, layer, model, save
from worker.engine import fold
from worker.engine.load import load

Build = Callable[[], onnx.ModelProto]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def hidden(
    *nodes: Node, weights: dict[str, object], inputs: dict[str, list[int | str]] | None = None
) -> onnx.ModelProto:
    """Nodes that make `h` out of `x`, then a layer that reads ten hidden units."""
    whole = {**layer("fc", 4, 10), **weights}
    return model([*nodes, Node("Relu", ["h"], "r"), gemm("fc", "r", "y")], whole, inputs or ROW, ["y"])  # type: ignore[arg-type]


def transposed() -> onnx.ModelProto:
    nodes = Node("Transpose", ["w"], "wt", {"perm": [1, 0]}), Node("MatMul", ["x", "wt"], "h")
    return hidden(*nodes, weights={"w": (10, 12)})


def packed() -> onnx.ModelProto:
    """Rows stored in another order and shape, put together again when the model runs."""
    nodes = [
        Node("Slice", ["flat", "zero", "middle", "zero"], "low"),
        Node("Slice", ["flat", "middle", "end", "zero"], "high"),
        Node("Concat", ["high", "low"], "both", {"axis": 0}),
        Node("Reshape", ["both", "shape"], "w"),
        Node("ConstantOfShape", ["units"], "b"),
        Node("Gemm", ["x", "w", "b"], "h", {"transB": 1}),
    ]
    numbers = {"zero": ints(0), "middle": ints(60), "end": ints(2**62), "shape": ints(10, 12), "units": ints(10)}
    return hidden(*nodes, weights={"flat": (120, 1), **numbers})


def half() -> onnx.ModelProto:
    """Weights stored in half precision, and cast."""
    nodes = Node("Cast", ["w"], "wide", {"to": onnx.TensorProto.FLOAT}), Node("MatMul", ["x", "wide"], "h")
    stored = np.random.default_rng(0).standard_normal((12, 10)).astype(np.float16)
    return hidden(*nodes, weights={"w": stored})


@pytest.mark.parametrize("build", [transposed, packed, half])
def test_a_layer_whose_weight_is_computed_prunes(build: Build, tmp_path: Path) -> None:
    proto = build()
    dissected = dissect(proto, tmp_path)
    assert [10] == [group.units for group in dissected.analysis.groups]
    proof = dissected.proof(dissected.random_half())
    assert proof.passed
    assert proof.mask_has_effect
    kept = {node.op_type for node in dissected.cut(dissected.random_half()).graph.node}
    assert {"MatMul", "Gemm", "Relu"} >= kept


@pytest.mark.parametrize("build", [transposed, packed, half])
def test_the_model_computes_what_it_did(build: Build, tmp_path: Path) -> None:
    proto = build()
    dissected = dissect(proto, tmp_path)
    feeds = feeds_for(proto, 4)
    np.testing.assert_allclose(run(dissected.cut({}), feeds)[0], run(proto, feeds)[0], rtol=1e-5, atol=1e-6)


def test_a_weight_that_two_layers_turn_in_the_same_way_stays_one(tmp_path: Path) -> None:
    nodes = [
        Node("Transpose", ["w"], "one", {"perm": [1, 0]}),
        Node("MatMul", ["x", "one"], "a"),
        Node("Transpose", ["w"], "two", {"perm": [1, 0]}),
        Node("Relu", ["a"], "ar"),
        Node("MatMul", ["ar", "two"], "h"),
    ]
    proto = hidden(*nodes, weights={"w": (12, 12), **layer("fc", 4, 12)})
    dissected = dissect(proto, tmp_path)
    assert ["fc.bias", "fc.weight", "one"] == sorted(dissected.graph.constants)


def test_a_large_weight_that_is_also_read_as_it_is_is_not_held_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes = [
        Node("MatMul", ["x", "w"], "a"),
        Node("Transpose", ["w"], "wt", {"perm": [1, 0]}),
        Node("MatMul", ["a", "wt"], "b"),
        Node("MatMul", ["b", "w"], "h"),
    ]
    proto = hidden(*nodes, weights={"w": (12, 10)})
    assert {"w", "wt"} <= set(dissect(proto, tmp_path).graph.constants)
    monkeypatch.setattr(fold, "LARGE", 100)
    assert {"w"} == set(dissect(proto, tmp_path).graph.constants) & {"w", "wt"}


def test_half_precision_stays_half(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in (("w", (10, 12)), ("b", (10,)))}
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["x16"], to=onnx.TensorProto.FLOAT16),
        onnx.helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        onnx.helper.make_node("Add", ["b", "b"], ["bb"]),
        onnx.helper.make_node("MatMul", ["x16", "wt"], ["h"]),
        onnx.helper.make_node("Add", ["h", "bb"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 12])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, ["N", 10])],
        [onnx.numpy_helper.from_array(one, name) for name, one in stored.items()],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    loaded = load(save(proto, tmp_path), {})
    kept = {name: value.const_value.dtype.name for name, value in loaded.model.graph.initializers.items()}
    assert {"wt": "FLOAT16"} == {name: kind for name, kind in kept.items() if not name.startswith("b")}
    assert "Add" in {node.op_type for node in loaded.model.graph}  # rounded as it is at run time: left to it


@pytest.mark.parametrize(
    "node",
    [
        Node("ConstantOfShape", ["huge"], "big"),
        Node("Expand", ["one", "huge"], "big"),
        Node("Tile", ["one", "huge"], "big"),
    ],
)
def test_what_would_be_huge_is_left_to_the_model(node: Node, tmp_path: Path) -> None:
    nodes = [
        gemm("fc", "x", "h"),
        node,
        Node("Gather", ["big", "zero"], "z", {"axis": 0}),
        Node("Add", ["h", "z"], "y"),
    ]
    weights = {**layer("fc", 4, 12), "huge": ints(2**36), "one": np.ones(1, np.float32), "zero": ints(0)}
    loaded = load(save(model(nodes, weights, ROW, ["y"]), tmp_path), {})
    assert node.op in {node.op_type for node in loaded.model.graph}


def test_the_budget_is_one_for_the_whole_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fold, "AT_LEAST_BYTES", 0)
    sizes = {f"s{n}": ints(400 + n) for n in range(4)}
    nodes = [Node("ConstantOfShape", [name], f"c{name}") for name in sizes]
    total = [Node("ReduceSum", [f"c{name}"], f"r{name}", {"keepdims": 0}) for name in sizes]
    proto = model([*nodes, *total, Node("Sum", ["x", *(f"r{name}" for name in sizes)], "y")], sizes, ROW, ["y"])
    loaded = load(save(proto, tmp_path), {})
    left = [node.op_type for node in loaded.model.graph].count("ConstantOfShape")
    assert 4 == left
    monkeypatch.setattr(fold, "AT_LEAST_BYTES", 5000)
    loaded = load(save(proto, tmp_path), {})
    assert 2 == [node.op_type for node in loaded.model.graph].count("ConstantOfShape")


def test_an_output_that_is_a_constant_stays_one(tmp_path: Path) -> None:
    nodes = [gemm("fc", "x", "y"), Node("Transpose", ["fc.weight"], "w", {"perm": [1, 0]})]
    proto = model(nodes, layer("fc", 4, 12), ROW, ["y", "w"])
    loaded = load(save(proto, tmp_path), {})
    assert "Transpose" in {node.op_type for node in loaded.model.graph}


def test_equality_with_the_original_is_seen_to_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two different Transposes taken for one."""
    monkeypatch.setattr(fold, "_written", lambda _: "")
    nodes = [
        Node("Transpose", ["w"], "one", {"perm": [1, 0]}),
        Node("Transpose", ["w"], "two", {"perm": [0, 1]}),
        Node("MatMul", ["x", "one"], "a"),
        Node("MatMul", ["a", "two"], "h"),
    ]
    proto = hidden(*nodes, weights={"w": (12, 12), **layer("fc", 4, 12)})
    dissected = dissect(proto, tmp_path)
    feeds = feeds_for(proto, 4)
    assert not np.allclose(run(dissected.cut({}), feeds)[0], run(proto, feeds)[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_an_expand_as_torch_writes_it_keeps_its_sizes_known(seed: int, tmp_path: Path) -> None:
    """A token in front of a sequence: -1 keeps an axis, and the sizes after it are numbers again."""
    nodes = [
        Node("MatMul", ["x", "w"], "p"),
        Node("Shape", ["p"], "shape"),
        Node("Gather", ["shape", "first"], "n", {"axis": 0}),
        Node("Unsqueeze", ["n", "zero"], "n1"),
        Node("Concat", ["n1", "keep", "keep"], "sizes", {"axis": 0}),
        Node("ConstantOfShape", ["three"], "ones", {"value": onnx.numpy_helper.from_array(ints(1))}),
        Node("Mul", ["ones", "minus"], "minuses"),
        Node("Equal", ["sizes", "minuses"], "asked"),
        Node("Where", ["asked", "ones", "sizes"], "target"),
        Node("Expand", ["token", "target"], "e"),
        Node("Concat", ["e", "p"], "c", {"axis": 1}),
        Node("Tanh", ["c"], "t"),
        Node("MatMul", ["t", "out"], "y"),
    ]
    numbers = {"first": np.array(0), "zero": ints(0), "keep": ints(-1), "three": ints(3), "minus": np.array(-1)}
    weights = {"w": (6, 8), "token": (1, 1, 8), "out": (8, 4), **numbers}
    dissected = dissect(model(nodes, weights, {"x": ["N", 5, 6]}, ["y"]), tmp_path)
    assert [8] == [group.units for group in dissected.analysis.groups]
    proof = dissected.proof(dissected.random_half(seed))
    assert proof.passed
    assert proof.mask_has_effect
    assert not {"Where", "Equal"} & {node.op_type for node in dissected.cut({}).graph.node}
