"""Units through operators that move values: pruned equals masked, what follows follows, seeded faults are seen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from tests.engine.dissect import assert_exact, dissect
from tests.engine.nets import IMAGE, Node, conv, gemm, layer, model
from tests.engine.nets_layout import (
    LAYOUT,
    attention,
    attention_computed_target,
    depth_to_space,
    ints,
    option_a,
    picked,
    shuffle,
    sliced,
    split_in_sizes,
    stepped,
    tail,
)
from worker.engine import forks, ops
from worker.engine.graph import Op
from worker.engine.ops import slicing
from worker.engine.ops.layout import blocks
from worker.engine.ops.rule import Cut, nothing_follows
from worker.engine.ties import Axis, Fork, Ties

GROUPS = {
    "attention": {"qm": 4},
    "attention_computed_target": {"qm": 4},
    "one_projection": {"m": 4},
    "shuffle": {"c1": 2, "c2": 4},
    "split_in_sizes": {"c1": 3, "c1[2]": 5, "c2": 5, "c3": 8},
    "split_equally": {"c1": 4, "c1[2]": 4, "c2": 5, "c3": 8},
    "split_old": {"c1": 4, "c1[2]": 4, "c2": 5, "c3": 8},
    "sliced": {"c1": 2, "c1[2]": 3, "c1[3]": 3, "c2": 8},
    "stepped": {"c1": 3, "c2": 3, "c3": 8},
    "picked": {"c1": 7, "c2": 8},
    "option_a": {"c1": 4, "c2": 4},
    "channels_last": {"c1": 8, "c2": 5},
    "depth_to_space": {"c1": 3, "c2": 4, "c3": 8},
    "depth_to_space_crd": {"c1": 3, "c2": 4, "c3": 8},
    "group_norm": {"c1": 4},
    "repeated": {"c1": 8, "c2": 8},
    "common_factors": {"c1": 3, "c2": 2},
}


@pytest.mark.parametrize("name", LAYOUT)
def test_the_groups_are_those_a_reader_of_the_network_would_name(name: str, tmp_path: Path) -> None:
    dissected = dissect(LAYOUT[name](), tmp_path)
    assert GROUPS[name] == {group.name: group.units for group in dissected.analysis.groups}


@pytest.mark.parametrize("name", LAYOUT)
@pytest.mark.parametrize("seed", [0, 1])
def test_pruned_equals_masked_and_the_mask_has_an_effect(name: str, seed: int, tmp_path: Path) -> None:
    assert_exact(dissect(LAYOUT[name](), tmp_path), seed)


def constants(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """Small integer initializers, by the node that reads them and the slot."""
    known = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    return {
        f"{node.op_type}.{slot}.{node.output[0]}": known[name].tolist()
        for node in proto.graph.node
        for slot, name in enumerate(node.input)
        if name in known and known[name].dtype == np.int64
    }


def test_a_whole_head_goes_from_all_three_projections(tmp_path: Path) -> None:
    cut = dissect(attention(), tmp_path).cut({"qm": (0, 2)})
    shapes = {one.name: tuple(one.dims) for one in cut.graph.initializer}
    assert [(6, 6)] * 4 == [shapes[name] for name in ("q.w", "k.w", "v.w", "out.w")]
    assert [0, 0, 2, 3] == constants(cut)["Reshape.1.qh"]


def test_numbers_inside_a_computed_target_follow(tmp_path: Path) -> None:
    cut = constants(dissect(attention_computed_target(), tmp_path).cut({"qm": (0, 2, 3)}))
    assert [1, 3] == cut["Concat.1.split"]
    assert [3] == cut["Concat.1.join"]


def test_sizes_bounds_indices_and_pads_follow(tmp_path: Path) -> None:
    assert [2, 3] == constants(dissect(split_in_sizes(), tmp_path).cut({"c1": (1,), "c1[2]": (0, 4)}))["Split.1.l"]
    bounds = constants(dissect(sliced(), tmp_path).cut({"c1": (0,), "c1[2]": (1,)}))  # channels 0 and 3
    assert ([0], [3]) == (bounds["Slice.1.l"], bounds["Slice.2.l"])
    assert ([1, 0], [6, 6]) == (bounds["Slice.1.r"], bounds["Slice.2.r"])
    assert [7, 0, 1, 2, 3, 6, 4, 5] == bounds["Gather.1.o"]
    assert [0, 0, 0, 0, 0, 2, 0, 0] == constants(dissect(option_a(), tmp_path).cut({"c2": (0, 2)}))["Pad.1.p"]


def test_runs_of_equal_product() -> None:
    assert [([0], [0]), ([1, 2], [1])] == blocks((2, 3, 4), (2, 12))
    assert [([1], [0, 1])] == blocks((1, 6, 1), (2, 3))


def test_a_lane_that_is_pinned_anyway_leaves_the_fork_to_the_other(tmp_path: Path) -> None:
    """The heads' axis runs into a CumSum: the width of every head is what may go."""
    nodes = [
        Node("MatMul", ["x", "w"], "m"),
        Node("Reshape", ["m", "split"], "s"),
        Node("CumSum", ["s", "two"], "c"),
        Node("Reshape", ["c", "join"], "j"),
        Node("MatMul", ["j", "out"], "y"),
    ]
    weights = {"w": (6, 12), "out": (12, 4), "split": ints(0, 0, 4, 3), "join": ints(0, 0, 12), "two": np.array(2)}
    dissected = dissect(model(nodes, weights, {"x": ["N", 5, 6]}, ["y"]), tmp_path)
    assert {"m": 3} == {group.name: group.units for group in dissected.analysis.groups}
    proof = dissected.proof({"m": (1,)})
    assert proof.passed
    assert proof.mask_has_effect


def test_a_size_that_only_names_the_same_axis_again_does_not_pin(tmp_path: Path) -> None:
    """Resize to twice the size, the target made of the input's own channels, as exporters write interpolation."""
    nodes = [
        conv("c1", "x", "a"),
        Node("Shape", ["a"], "shape"),
        Node("Slice", ["shape", "zero", "two"], "lead"),
        Node("Concat", ["lead", "picture"], "target", {"axis": 0}),
        Node("Resize", ["a", "", "", "target"], "b", {"mode": "nearest"}),
        *tail("b"),
    ]
    weights = {**layer("c1", 8, 3, 3, 3), **layer("fc", 4, 8), "zero": ints(0), "two": ints(2), "picture": ints(16, 16)}
    dissected = dissect(model(nodes, weights, IMAGE, ["y"]), tmp_path)
    assert {"c1": 8} == {group.name: group.units for group in dissected.analysis.groups}
    assert dissected.proof({"c1": (0, 5)}).passed


@pytest.mark.parametrize("gone", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_steps_fit_whichever_runs_go(gone: tuple[int, ...], tmp_path: Path) -> None:
    proof = dissect(stepped(), tmp_path).proof({"c1": gone, "c2": gone})
    assert proof.passed
    assert proof.mask_has_effect


def test_a_last_run_that_is_shorter_than_the_step_goes_or_stays() -> None:
    """Seven in runs of two, from the last to the first; (start, end) after a cut."""
    found = {}
    for gone in ((), (6,), (0, 1), (2, 3, 6)):
        cut = Cut(lambda _: (), {("x", 1): np.array(gone)})
        found[gone] = slicing._bounds(range(6, -1, -2), ("x", 1), 7, cut)
    assert {(): (6, -8), (6,): (4, -8), (0, 1): (4, -8), (2, 3, 6): (2, -8)} == found


def test_a_scalar_index_follows_and_what_it_shows_stays(tmp_path: Path) -> None:
    dissected = dissect(picked(), tmp_path)
    assert 2 not in {int(index[0]) for index in dissected.analysis.groups[0].sites["a", 1]}
    assert 1 == constants(dissected.cut({"c1": (0, 3)}))["Gather.1.p"]


def test_a_scale_that_only_happens_to_keep_a_size_pins(tmp_path: Path) -> None:
    """Ten channels times 1.04 are ten, sampled elsewhere."""
    nodes = [conv("c1", "x", "a"), Node("Resize", ["a", "", "scales"], "b", {"mode": "linear"}), *tail("b")]
    weights = {**layer("c1", 10, 3, 3, 3), **layer("fc", 4, 10)}
    for scale, names in ((1.04, []), (1.0, ["c1"])):
        scales = np.array([1, scale, 2, 2], np.float32)
        proto = model(nodes, {**weights, "scales": scales}, IMAGE, ["y"])
        assert names == dissect(proto, tmp_path).names()


def test_reflections_pin(tmp_path: Path) -> None:
    middles = {
        "Pad": (Node("Pad", ["a", "pads"], "b", {"mode": "reflect"}), 10),
    }
    for key, (node, channels) in middles.items():
        weights = {**layer("c1", 8, 3, 3, 3), **layer("c2", 8, channels, 3, 3), **layer("fc", 4, 8)}
        weights |= {
            "zero": ints(0),
            "one": ints(1),
            "pads": ints(0, 1, 0, 0, 0, 1, 0, 0),
        }
        proto = model([conv("c1", "x", "a"), node, conv("c2", "b", "z"), *tail("z")], weights, IMAGE, ["y"])
        stays = {stay.layer.name: stay.message for stay in dissect(proto, tmp_path).analysis.stays}
        assert key in stays["c1"]


OrtFail = (Fail, InvalidArgument, RuntimeException)


def _spoil(monkeypatch: pytest.MonkeyPatch, key: str, **changes: object) -> None:
    monkeypatch.setitem(ops.RULES, key, replace(ops.RULES[key], **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("net", "key"),
    [
        ("attention", "Reshape"),
        ("attention_computed_target", "Concat"),
        ("split_in_sizes", "Split"),
        ("sliced", "Slice"),
        ("sliced", "Gather"),
        ("stepped", "Slice"),
        ("picked", "Gather"),
        ("option_a", "Pad"),
    ],
)
def test_the_oracle_sees_a_setting_that_does_not_follow(
    net: str, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _spoil(monkeypatch, key, follow=nothing_follows)
    dissected = dissect(LAYOUT[net](), tmp_path)
    with pytest.raises((*OrtFail, AssertionError)):
        assert dissected.proof(dissected.random_half()).passed


def test_the_oracle_sees_a_shuffle_that_forgets_its_transpose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both Reshapes carried by the group instead of the channel: the second one is then the wrong way round."""

    def outer(op: Op, ties: Ties) -> None:
        x, y = op.inputs[0], op.outputs[0]
        if len(ties.shape(x)) == 5:
            for axis in (2, 3, 4):
                ties.speak((x, axis))
            ties.tie_points(ties.points((y, 1)), np.tile(ties.points((x, 1)), 2))
        else:
            ties.tie_points(ties.points((x, 1)), np.repeat(ties.points((y, 2)), 2))
        for name, first in ((x, (0, 1)), (y, (0, 1, 2))):
            ties.speak(*((name, axis) for axis in first), *((name, axis) for axis in range(len(ties.shape(name)))))

    _spoil(monkeypatch, "Reshape", tie=outer)
    dissected = dissect(shuffle(), tmp_path)
    assert not dissected.proof(dissected.random_half()).passed


def test_the_oracle_sees_depth_taken_in_the_wrong_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def side_by_side(op: Op, ties: Ties) -> None:
        x, y = op.inputs[0], op.outputs[0]
        ties.tie_points(ties.points((x, 1)).reshape(-1, 4), ties.points((y, 1))[:, None].repeat(4, axis=1))
        ties.speak((x, 1), (y, 1))

    _spoil(monkeypatch, "DepthToSpace", tie=side_by_side)
    assert not dissect(depth_to_space(), tmp_path).proof({"c1": (1,)}).passed


def test_the_oracle_sees_a_fork_whose_first_part_is_taken_for_the_fastest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interleaved(ties: Ties, fork: Fork, carrier: Axis | None) -> None:
        if carrier is not None:
            whole, own = ties.points(fork.whole), ties.points(carrier)
            ties.tie_points(whole.reshape(-1, len(own)), np.tile(own, (len(whole) // len(own), 1)))

    monkeypatch.setattr(forks, "_carry", interleaved)
    assert not dissect(attention(), tmp_path).proof({"qm": (0, 1)}).passed


def test_one_part_of_a_grouped_split_is_no_group_of_its_own(tmp_path: Path) -> None:
    """A part that no convolution reads is only carried along: the layer says why it stays."""
    nodes = [gemm("fc1", "x", "h"), Node("Reshape", ["h", "split"], "y")]
    proto = model(nodes, {**layer("fc1", 10, 12), "split": ints(0, 2, 5)}, {"x": ["N", 12]}, ["y"])
    stays = {stay.layer.name: stay.code for stay in dissect(proto, tmp_path).analysis.stays}
    assert {"fc1": "axis_mixed"} == stays


def test_a_scalar_target_of_expand_is_no_obstacle(tmp_path: Path) -> None:
    """ONNX asks for a vector, and onnxruntime takes this."""
    nodes = [
        conv("c1", "x", "a"),
        Node("Expand", ["a", "target"], "e"),
        conv("c2", "e", "c"),
        Node("GlobalAveragePool", ["c"], "g"),
        Node("Flatten", ["g"], "f"),
        gemm("fc", "f", "y"),
    ]
    weights = {**layer("c1", 6, 3, 3, 3), **layer("c2", 5, 6, 3, 3), **layer("fc", 4, 5)}
    proto = model(nodes, {**weights, "target": np.array([1])}, IMAGE, ["y"])
    target = next(one for one in proto.graph.initializer if one.name == "target")
    target.CopyFrom(onnx.numpy_helper.from_array(np.array(1), "target"))
    dissected = dissect(proto, tmp_path)
    assert {"c1": 6, "c2": 5} == {group.name: group.units for group in dissected.analysis.groups}
    assert dissected.proof(dissected.random_half()).passed
