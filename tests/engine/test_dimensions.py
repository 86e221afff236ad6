"""Sizes are followed through the graph as numbers or as products of open ones, however they are computed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from tests.engine.dissect import dissect
from tests.engine.nets import IMAGE, Node, conv, layer, model
from tests.engine.nets_layout import ints, tail
from worker.engine import dimensions, fold
from worker.engine.dimensions import Settled, settle
from worker.engine.extents import Size, one_by_one
from worker.engine.graph import Array, freeze

N, H = Size(1, ("n",)), Size(1, ("h",))


def followed(nodes: Sequence[Node], constants: Mapping[str, Array], shape: Sequence[int | str]) -> Settled:
    graph = helper.make_graph(
        [node.proto() for node in nodes],
        "sizes",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(shape))],
        [helper.make_empty_tensor_value_info(name) for name in nodes[-1].outputs()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    loaded = ir.from_proto(proto)
    return settle(loaded, freeze(loaded))


def test_products_of_open_sizes_divide_where_the_result_is_whole() -> None:
    assert Size(6, ("h", "n")) == Size(2, ("n",)) * Size(3, ("h",))
    assert Size(2) == Size(6, ("n",)).over(Size(3, ("n",)))
    assert H == (N * H).over(N)
    assert None is Size(6, ("n",)).over(Size(4))
    assert None is N.over(H)
    assert None is N.over(Size(0))


@pytest.mark.parametrize(
    ("key", "one", "other", "result"),
    [
        ("Mul", N, Size(4), Size(4, ("n",))),
        ("Div", Size(7), Size(2), Size(3)),
        ("Div", Size(-7), Size(2), Size(-3)),
        ("Div", Size(8, ("n",)), Size(2), Size(4, ("n",))),
        ("Div", N, Size(2), None),
        ("Div", Size(7), Size(0), None),
        ("Add", N, N, Size(2, ("n",))),
        ("Add", N, Size(1), None),
        ("Sub", N, N, Size(0)),
    ],
)
def test_arithmetic_on_sizes(key: str, one: Size, other: Size, result: Size | None) -> None:
    assert result == one_by_one(key, one, other)


def test_the_rest_of_a_reshape_is_found_although_the_samples_are_open() -> None:
    """(N, 6, 4, 4) to (N, 6, -1), the target taken from the shape itself."""
    nodes = [
        Node("Shape", ["x"], "s"),
        Node("Slice", ["s", "zero", "two"], "lead"),
        Node("Concat", ["lead", "rest"], "target", {"axis": 0}),
        Node("Reshape", ["x", "target"], "y"),
    ]
    found = followed(nodes, {"zero": ints(0), "two": ints(2), "rest": ints(-1)}, ["N", 6, 4, 4])
    samples = found.shapes["x"][0]
    assert (samples, Size(6), Size(16)) == found.shapes["y"]


def test_the_same_name_at_two_axes_is_not_believed_to_be_one_size() -> None:
    nodes = [Node("Shape", ["x"], "s"), Node("Reshape", ["x", "flat"], "y")]
    found = followed(nodes, {"flat": ints(0, -1)}, ["N", "N", 3])
    assert found.shapes["x"][0] != found.shapes["x"][1]


def test_a_list_of_which_one_entry_is_not_understood_keeps_the_others() -> None:
    """Half of an open height, as windows are cut: the channels behind it stay known."""
    nodes = [
        Node("Shape", ["x"], "s"),
        Node("Gather", ["s", "zero"], "n"),
        Node("Gather", ["s", "one"], "h"),
        Node("Div", ["h", "two"], "half"),
        Node("Concat", ["n", "half", "two", "six"], "target", {"axis": 0}),
        Node("Reshape", ["x", "target"], "y"),
    ]
    numbers = {"zero": ints(0), "one": ints(1), "two": ints(2), "six": ints(6)}
    found = followed(nodes, numbers, ["N", "H", 6])
    assert None is found.lists["target"][1]
    assert [Size(2), Size(6)] == list(found.shapes["y"][2:])


@pytest.mark.parametrize(
    ("node", "result"),
    [
        (Node("Squeeze", ["c", "zero"], "y"), np.array(6)),
        (Node("Identity", ["c"], "y"), ints(6)),
        (Node("Reshape", ["c", "none"], "y"), None),
        (Node("Unsqueeze", ["c", "zero"], "y"), None),
        (Node("Cast", ["c"], "y", {"to": onnx.TensorProto.INT32}), np.array([6], np.int32)),
        (Node("Mul", ["c", "zero"], "y"), ints(0)),
        (Node("Size", ["c"], "y"), np.array(1)),
    ],
)
def test_a_number_has_the_rank_and_the_type_that_it_has_at_run_time(node: Node, result: Array | None) -> None:
    nodes = [Node("Shape", ["x"], "s"), Node("Gather", ["s", "one"], "c"), node]
    found = followed(nodes, {"one": ints(1), "zero": ints(0), "none": np.zeros(0, np.int64)}, ["N", 6])
    known = found.numbers.get("y")
    if result is None:  # a rank that the walk does not follow, or one that the constants give
        assert known is None or known.shape != (1,)
    else:
        assert known is not None
        assert (result.dtype, result.shape, result.tolist()) == (known.dtype, known.shape, known.tolist())


def shuffled_twice(open_size: str) -> onnx.ModelProto:
    """Two channel shuffles behind each other, their targets computed from shapes: the second one's sizes follow from
    those of the first."""
    nodes = [conv("c1", "x", "a")]
    for number, source in (("1", "a"), ("2", "o1")):
        nodes += [
            Node("Shape", [source], f"s{number}"),
            *(Node("Gather", [f"s{number}", f"i{axis}"], f"d{axis}{number}") for axis in range(4)),
            Node("Div", [f"d1{number}", "two"], f"half{number}"),
            Node(
                "Concat",
                [f"d0{number}", "two", f"half{number}", f"d2{number}", f"d3{number}"],
                f"apart{number}",
                {"axis": 0},
            ),
            Node("Reshape", [source, f"apart{number}"], f"r{number}"),
            Node("Transpose", [f"r{number}"], f"t{number}", {"perm": [0, 2, 1, 3, 4]}),
            Node("Concat", [f"d{axis}{number}" for axis in range(4)], f"whole{number}", {"axis": 0}),
            Node("Reshape", [f"t{number}", f"whole{number}"], f"o{number}"),
        ]
    nodes += [conv("c2", "o2", "z"), *tail("z")]
    numbers = {**{f"i{axis}": ints(axis) for axis in range(4)}, "two": ints(2)}
    weights = {**layer("c1", 8, 3, 3, 3), **layer("c2", 5, 8, 3, 3), **layer("fc", 4, 5)}
    return model(nodes, {**weights, **numbers}, {"x": ["N", 3, open_size, 8]}, ["y"])


def test_sizes_are_followed_through_one_reshape_into_the_next(tmp_path: Path) -> None:
    given = {"x": np.random.default_rng(0).standard_normal((4, 3, 6, 8)).astype(np.float32)}
    dissected = dissect(shuffled_twice("H"), tmp_path, given=given)
    assert {"c1": 2, "c2": 5} == {group.name: group.units for group in dissected.analysis.groups}
    for seed in (0, 1):
        proof = dissected.proof(dissected.random_half(seed))
        assert proof.passed
        assert proof.mask_has_effect


def test_without_the_walk_the_shuffled_channels_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dimensions, "_follow_numbers", lambda *_: None)
    given = {"x": np.ones((2, 3, 6, 8), np.float32)}
    assert ["c2"] == dissect(shuffled_twice("H"), tmp_path, given=given).names()


def test_a_squeeze_without_axes_goes_where_the_file_says_which(tmp_path: Path) -> None:
    """A fixed batch: what is squeezed is known. With an open one an axis that a cut leaves at one would go too."""

    def squeezed(samples: int | str) -> onnx.ModelProto:
        nodes = [
            conv("c1", "x", "a"),
            Node("GlobalAveragePool", ["a"], "g"),
            Node("Squeeze", ["g"], "f"),
            Node("MatMul", ["f", "w"], "y"),
        ]
        weights = {**layer("c1", 6, 3, 3, 3), "w": (6, 4)}
        return model(nodes, weights, {"x": [samples, *IMAGE["x"][1:]]}, {"y": [samples, 4]})

    fixed = dissect(squeezed(3), tmp_path, samples=3)
    assert ["c1"] == fixed.names()
    assert fixed.proof({"c1": (0, 2, 3, 4, 5)}).passed
    stays = dissect(squeezed("N"), tmp_path).analysis.stays
    assert ("c1", "axis_mixed") in {(stay.layer.name, stay.code) for stay in stays}


def test_a_long_list_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [Node("Shape", ["x"], "s"), Node("Gather", ["s", "many"], "c"), Node("Neg", ["c"], "y")]
    many = {"many": np.zeros(dimensions.LONGEST + 1, np.int64)}
    assert "c" not in followed(nodes, many, [2, 6]).numbers
    monkeypatch.setattr(dimensions, "LONGEST", dimensions.LONGEST + 1)
    assert "c" in followed(nodes, many, [2, 6]).numbers
    assert "Neg" in fold.FOLDS
