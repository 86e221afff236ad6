"""LSTM, GRU and RNN: pruned equals masked, also where a unit reads itself; the oracle fails on seeded faults."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.engine.dissect import assert_computes_alike, assert_exact, dissect, run
from tests.engine.nets import feeds_for
from tests.engine.nets_recurrent import ZOO, lstm, seq2seq, stacked, zero_states
from tests.engine.test_run import job
from worker.engine import ops
from worker.engine.compensate import compensate
from worker.engine.criteria.evidence import Step
from worker.engine.execute import Executor, to_numpy
from worker.engine.ops import recurrent
from worker.engine.ops.rule import nothing_follows
from worker.engine.ties import Ties

GROUPS = {
    "lstm": {"h1": 6, "h2": 7},
    "gru": {"h1": 6, "h2": 7},
    "gru_linear_before_reset": {"h1": 6, "h2": 7},
    "rnn": {"h1": 6, "h2": 7},
    "bidirectional": {"h": 6},
    "bidirectional_joined": {"h": 6},
    "seq2seq": {"h": 6},
    "last_step": {"p": 8, "h": 6},
    "cell_state": {"c": 6},
    "zero_states": {"h1": 6, "h2": 6},
}


@pytest.mark.parametrize("name", ZOO)
def test_pruned_equals_masked_and_the_mask_has_an_effect(name: str, tmp_path: Path) -> None:
    dissected = dissect(ZOO[name](), tmp_path)
    assert GROUPS[name] == {group.name: group.units for group in dissected.analysis.groups}
    for seed in (0, 1):
        assert_exact(dissected, seed)


@pytest.mark.parametrize("name", ZOO)
def test_the_executor_computes_what_onnxruntime_computes(name: str, tmp_path: Path) -> None:
    assert_computes_alike(dissect(ZOO[name](), tmp_path), rtol=1e-4, atol=1e-5)


def test_a_cut_follows_into_every_gate(tmp_path: Path) -> None:
    dissected = dissect(seq2seq(), tmp_path)
    cut = dissected.cut({"h": (1, 4)})
    shapes = {one.name: tuple(one.dims) for one in cut.graph.initializer}
    assert (1, 16, 5) == shapes["e.w"]
    assert (1, 16, 4) == shapes["d.r"]
    assert (1, 32) == shapes["e.b"]
    assert (1, 12) == shapes["d.p"]
    assert [4, 4] == [attr.i for node in cut.graph.node for attr in node.attribute if attr.name == "hidden_size"]
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in cut.graph.initializer}
    original = dissected.graph.constants["d.r"]
    kept = [0, 2, 3, 5]
    rows = [gate * 6 + unit for gate in range(4) for unit in kept]
    np.testing.assert_array_equal(original[:, rows][:, :, kept], weights["d.r"])


def test_a_recurrent_layer_is_one_layer_and_its_units_are_counted_once(tmp_path: Path) -> None:
    analysis = dissect(lstm(), tmp_path).analysis
    assert [("h1", 4), ("h2", 4), ("y", 1)] == [(layer.name, layer.parts) for layer in analysis.layers]
    assert {"h1", "h2"} == set(analysis.groups[0].readers)  # itself, and the next


def test_states_of_zeros_are_left_out_and_others_stay(tmp_path: Path) -> None:
    graph = dissect(zero_states(), tmp_path).graph
    assert ["GRU", "Reshape", "GRU", "Reshape", "MatMul"] == [op.key for op in graph.ops]
    assert "zeros" not in graph.constants
    proto = zero_states()
    filled = next(node for node in proto.graph.node if node.op_type == "ConstantOfShape")
    filled.attribute.append(
        onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.full(1, 0.5, np.float32)))
    )
    dissected = dissect(proto, tmp_path)
    assert {"h1": 6} == {group.name: group.units for group in dissected.analysis.groups}  # one size for both
    assert dissected.proof({"h1": (0, 2)}).passed


def test_incoming_weights_are_the_rows_of_every_gate(tmp_path: Path) -> None:
    dissected = dissect(lstm(), tmp_path)
    w, r = dissected.graph.constants["r1.w"], dissected.graph.constants["r1.r"]
    rows = dissected.evidence["h1"].rows
    gates = np.arange(4) * 6 + 2
    expected = np.concatenate([w[:, gates].ravel(), r[:, gates].ravel()])
    np.testing.assert_allclose(np.sort(expected), np.sort(rows[2]), rtol=1e-6)


@pytest.mark.parametrize("method", ["merge", "project"])
def test_compensation_reaches_the_recurrent_weights_and_stays_exact(method: str, tmp_path: Path) -> None:
    dissected = dissect(lstm(), tmp_path)
    taken = {"h1": (Step(1, "similar", 3, 1.0),), "h2": ()}
    changed, _ = compensate(
        "merge" if method == "merge" else "project",
        "auto",
        dissected.graph,
        dissected.analysis.groups,
        taken,
        dissected.evidence,
    )
    assert {"r1.r", "r2.w"} == set(changed)
    assert np.all(changed["r1.r"][:, :, 1] == 0)
    assert not np.array_equal(changed["r1.r"][:, :, 3], dissected.graph.constants["r1.r"][:, :, 3])
    gone: dict[str, tuple[int, ...]] = {"h1": (1,), "h2": ()}
    assert dissected.proof(gone, changed).passed


def test_a_twin_that_is_merged_leaves_the_outputs_as_they_were(tmp_path: Path) -> None:
    """Unit 5 of the first layer gets the weights of unit 2: merging them must change nothing at all."""
    proto = lstm()
    arrays = {one.name: onnx.numpy_helper.to_array(one).copy() for one in proto.graph.initializer}
    for name in ("r1.w", "r1.r", "r1.b"):
        arrays[name].reshape(1, -1, 6, *arrays[name].shape[2:])[:, :, 5] = arrays[name].reshape(
            1, -1, 6, *arrays[name].shape[2:]
        )[:, :, 2]
    for one in proto.graph.initializer:
        one.CopyFrom(onnx.numpy_helper.from_array(arrays[one.name], one.name))
    dissected = dissect(proto, tmp_path)
    taken = {"h1": (Step(5, "similar", 2, 0.0),), "h2": ()}
    changed, _ = compensate("merge", "auto", dissected.graph, dissected.analysis.groups, taken, dissected.evidence)
    cut = dissected.cut({"h1": (5,), "h2": ()}, changed)
    feeds = feeds_for(proto, 16)
    np.testing.assert_allclose(run(cut, feeds)[0], run(proto, feeds)[0], rtol=1e-4, atol=1e-6)


def test_gradients_flow_through_every_step(tmp_path: Path) -> None:
    dissected = dissect(lstm(), tmp_path)
    op = dissected.graph.ops[0]
    tensors = [torch.from_numpy(np.array(dissected.graph.constants[name])).requires_grad_() for name in op.inputs[1:4]]
    y = recurrent.compute(op, [torch.from_numpy(dissected.feeds["x"]), *tensors])[0]
    y[-1].sum().backward()
    assert all(one.grad is not None and bool(one.grad.abs().sum() > 0) for one in tensors)


def test_clipped_cells_are_left_to_onnxruntime(tmp_path: Path) -> None:
    proto = stacked("LSTM", clip=0.1)
    dissected = dissect(proto, tmp_path)
    executor = Executor(dissected.graph)
    found = to_numpy(executor.run(dissected.feeds)["y"])
    np.testing.assert_allclose(found, run(proto, dissected.feeds)[0], rtol=1e-5, atol=1e-6)
    assert 2 == len(executor._nodes)
    assert dissected.proof(dissected.random_half()).passed


def _spoil(monkeypatch: pytest.MonkeyPatch, key: str, **changes: object) -> None:
    monkeypatch.setitem(ops.RULES, key, replace(ops.RULES[key], **changes))


def test_the_oracle_sees_a_unit_that_still_reads_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the recurrent read the masked model lets removed units feed the others."""

    def forgetful(op: recurrent.Op, ties: Ties) -> None:
        recurrent.tie(op, ties)
        ties.consumed.pop()

    _spoil(monkeypatch, "LSTM", tie=forgetful)
    assert not dissect(lstm(), tmp_path).proof({"h1": (0, 1, 2)}).passed


def test_the_oracle_sees_gates_in_the_wrong_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rows of W are taken one unit further on than they are."""

    def shifted(op: recurrent.Op, ties: Ties) -> None:
        before = len(ties.left)
        recurrent.tie(op, ties)
        rows = ties.left[before].reshape(recurrent.GATES[op.key], -1)  # the first tie is that of W
        ties.left[before] = np.roll(rows, 1, axis=1).ravel()

    _spoil(monkeypatch, "GRU", tie=shifted)
    dissected = dissect(ZOO["gru"](), tmp_path)
    assert not dissected.proof(dissected.random_half()).passed


def test_the_oracle_sees_a_hidden_size_that_is_not_updated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _spoil(monkeypatch, "LSTM", follow=nothing_follows)
    with pytest.raises(Exception, match="must have shape"):
        dissect(lstm(), tmp_path).proof({"h1": (0, 1)})


def test_a_whole_job_prunes_a_stacked_cell(tmp_path: Path) -> None:
    options = {"criterion": {"name": "distinctiveness"}, "compensation": "project", "amount": {"remove_units": 0.5}}
    report = job(tmp_path, options, lstm(), labels=False)
    assert report.exactness.passed
    assert report.exactness.mask_has_effect
    units = {layer.name: (layer.units_before, layer.units_after) for layer in report.layers}
    assert {"h1": (6, 3), "h2": (7, 3), "y": (3, 3)} == units
