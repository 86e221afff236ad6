"""Pruned equals masked on every network, for a seeded random half of every group; the oracle fails on seeded faults."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.engine.dissect import assert_exact, dissect
from tests.engine.nets import ZOO, cnn, dense_block, mobile, residual
from worker.engine import ops
from worker.engine.ops import convolution, layout
from worker.engine.ops.rule import nothing_follows

GROUPS = {
    "mlp": {"fc1": 10, "fc2": 8},
    "matmul_mlp": {"h": 9},
    "matmul_from_the_left": {"h": 9},
    "cnn": {"c1": 6, "c2": 5, "fc1": 7},
    "residual": {"stem": 6, "a1": 5},
    "dense_block": {"a": 4, "b": 5, "c": 6},
    "mobile": {"pw1": 6, "pw2": 5},
    "grouped": {"c1": 4, "c2": 3, "c3": 5},
    "squeeze_excite": {"c1": 6, "down": 3, "c2": 5},
    "reshaped": {"c1": 6},
    "reshaped_at_run_time": {"c1": 6},
    "shared_bias": {"fc1": 8, "fc2": 8},
    "classifier": {"fc1": 10},
}


@pytest.mark.parametrize("name", ZOO)
def test_the_groups_are_those_a_reader_of_the_network_would_name(name: str, tmp_path: Path) -> None:
    dissected = dissect(ZOO[name](), tmp_path)
    assert GROUPS[name] == {group.name: group.units for group in dissected.analysis.groups}


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("seed", [0, 1])
def test_pruned_equals_masked_and_the_mask_has_an_effect(name: str, seed: int, tmp_path: Path) -> None:
    assert_exact(dissect(ZOO[name](), tmp_path), seed)


def test_a_cut_shrinks_every_tensor_of_the_group(tmp_path: Path) -> None:
    cut = dissect(cnn(), tmp_path).cut({"c2": (1, 3)})
    shapes = {one.name: tuple(one.dims) for one in cut.graph.initializer}
    assert (3, 6, 3, 3) == shapes["c2.weight"]
    assert (3,) == shapes["c2.bias"]
    assert (7, 48) == shapes["fc1.weight"]
    assert (6, 3, 3, 3) == shapes["c1.weight"]


def _spoil(monkeypatch: pytest.MonkeyPatch, key: str, **changes: object) -> None:
    monkeypatch.setitem(ops.RULES, key, replace(ops.RULES[key], **changes))


def test_the_oracle_sees_a_flatten_that_orders_positions_wrongly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interleaved(op: layout.Op, ties: layout.Ties) -> None:
        x, y = op.inputs[0], op.outputs[0]
        channels = ties.points((x, 1))
        flat = ties.points((y, 1)).reshape(-1, len(channels))
        ties.tie_points(flat, np.tile(channels, (len(flat), 1)))
        ties.speak((x, 1), (y, 1))

    _spoil(monkeypatch, "Flatten", tie=interleaved)
    proof = dissect(cnn(), tmp_path).proof({"c2": (0, 1)})
    assert not proof.passed


def test_the_oracle_sees_a_concat_without_its_shift(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unshifted(op: layout.Op, ties: layout.Ties) -> None:
        whole = ties.points((op.outputs[0], 1))
        for name in op.inputs:
            part = ties.points((name, 1))
            ties.tie_points(part, whole[: len(part)])
            ties.speak((name, 1))
        ties.speak((op.outputs[0], 1))

    _spoil(monkeypatch, "Concat", tie=unshifted)
    dissected = dissect(dense_block(), tmp_path)
    # The shared units of the two branches now sit at wrong places of the joined axis: the file no longer runs.
    with pytest.raises(Exception, match="Input channels C is not equal to kernel channels"):
        dissected.proof(dissected.random_half())


def test_the_oracle_sees_a_group_attribute_that_is_not_updated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _spoil(monkeypatch, "Conv", follow=nothing_follows)
    dissected = dissect(mobile(), tmp_path)
    with pytest.raises(Exception, match="group: 6"):
        dissected.proof({"pw1": (0, 1, 2)})


def test_the_oracle_sees_an_axis_that_should_be_pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _spoil(monkeypatch, "Softmax", tie=ops.elementwise.tie_first)
    proto = residual()
    for node in proto.graph.node:
        if node.output[0] == "r":  # a Softmax over channels in the middle of the stream
            node.op_type = "Softmax"
            node.attribute.append(onnx.helper.make_attribute("axis", 1))
    proof = dissect(proto, tmp_path).proof({"stem": (0, 1)})
    assert not proof.passed


def test_a_convolution_of_one_channel_is_no_depthwise_one(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    assert not convolution.is_depthwise(dissected.graph.ops[0], (1, 1, 8, 8))
