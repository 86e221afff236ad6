"""Operators with weights and statistics: pruned equals masked; what changes statistics is pinned and says so."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from schemas.criteria import Magnitude
from schemas.request import PruneRequest
from tests.engine.dissect import Dissected, assert_computes_alike, assert_exact, dissect, run
from tests.engine.nets import Node, model
from tests.engine.nets_layers import (
    ZOO,
    group_norm,
    grouped_query_attention,
    many_heads,
    normalised_over,
    one_head,
    quantised,
    shared_weight,
    tied_embedding,
    transformer_block,
    transposed,
    transposed_depthwise,
)
from tests.engine.test_run import job
from worker.engine import ops, surgery
from worker.engine.axes import Group
from worker.engine.compensate import compensate
from worker.engine.cost import Gone, cost, parameters, shapes_after
from worker.engine.criteria.evidence import Step
from worker.engine.graph import Array
from worker.engine.ops import attention, convolution, elementwise, normalisation
from worker.engine.ops import transposed as transposed_rules
from worker.engine.ops.rule import nothing_follows
from worker.engine.quantised import real
from worker.engine.sparsify import Clues, sparsify
from worker.engine.ties import Ties

GROUPS = {
    "transposed": {"c1": 6, "up": 4, "g": 3},
    "transposed_depthwise": {"c1": 6, "c2": 5},
    "instance_norm": {"c1": 6, "c2": 5},
    "group_norm": {"c1": 4, "c2": 5},
    "transformer_block": {"h": 10},
    "one_head": {"q": 8, "v": 6},
    "many_heads": {"q0": 4},
    "grouped_query_attention": {"q": 2},
    "rotary_attention": {"q0": 4},
    "einsum": {"q": 4, "q[2]": 3, "v": 5},
    "tied_embedding": {"e": 12, "h": 9},
    "shared_weight": {"first": 10},
    "ensemble": {"a": 10},
    "quantised": {"c": 6, "d": 8},
    "batch_norm_1d": {"fc1": 9},
}


def _stays(dissected: Dissected) -> dict[str, tuple[str, str]]:
    return {stay.layer.name: (stay.code, stay.message) for stay in dissected.analysis.stays}


def _shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {one.name: tuple(one.dims) for one in proto.graph.initializer}


@pytest.mark.parametrize("name", ZOO)
def test_pruned_equals_masked_and_the_mask_has_an_effect(name: str, tmp_path: Path) -> None:
    dissected = dissect(ZOO[name](), tmp_path)
    assert GROUPS[name] == {group.name: group.units for group in dissected.analysis.groups}
    for seed in (0, 1):
        assert_exact(dissected, seed)


@pytest.mark.parametrize("name", ZOO)
def test_the_executor_computes_what_onnxruntime_computes(name: str, tmp_path: Path) -> None:
    assert_computes_alike(dissect(ZOO[name](), tmp_path), rtol=1e-3, atol=1e-4)


def test_a_transposed_convolution_is_cut_on_both_sides(tmp_path: Path) -> None:
    cut = dissect(transposed(), tmp_path).cut({"c1": (0, 5), "up": (1,), "g": (2,)})
    shapes = _shapes(cut)
    assert (4, 6, 2, 2) == shapes["up.weight"]  # a unit of "up" is one channel in each group of the next
    assert (6, 2, 3, 3) == shapes["g.weight"]
    assert (4,) == shapes["g.bias"]


def test_whole_groups_go_with_their_normalisation(tmp_path: Path) -> None:
    cut = dissect(group_norm(), tmp_path).cut({"c1": (0, 2)})
    assert 2 == next(attr.i for node in cut.graph.node for attr in node.attribute if attr.name == "num_groups")
    assert (6,) == _shapes(cut)["gn.scale"]
    assert (6, 3, 3, 3) == _shapes(cut)["c1.weight"]


@pytest.mark.parametrize(
    "node",
    [
        Node("LRN", ["c"], "i", {"size": 3}),
        Node("LayerNormalization", ["c", "ones"], "i", {"axis": 1}),
    ],
    ids=lambda node: node.op,
)
def test_a_normalisation_over_channels_pins_them_and_says_so(node: Node, tmp_path: Path) -> None:
    code, message = _stays(dissect(normalised_over(node), tmp_path))["c1"]
    assert "normalised" == code
    allowed = "" if node.op == "LRN" else " (options.lossy allows that)"
    assert f"{node.op} '/i/{node.op}' normalises over it: removing a part changes the rest{allowed}" == message


def test_one_group_of_channels_is_normalised_together(tmp_path: Path) -> None:
    assert "normalised" == _stays(dissect(group_norm(groups=1), tmp_path))["c1"][0]


def test_a_stream_that_is_normalised_stays_and_the_hidden_layer_goes(tmp_path: Path) -> None:
    found = _stays(dissect(transformer_block(), tmp_path))
    assert {"d"} == set(found)
    assert "normalised" == found["d"][0]


def test_whole_heads_go_from_all_four_weights(tmp_path: Path) -> None:
    cut = dissect(many_heads(), tmp_path).cut({"q0": (1, 2)})
    shapes = _shapes(cut)
    assert [(12, 6), (12, 6), (12, 6), (6, 5)] == [shapes[name] for name in ("wq", "wk", "wv", "wo")]


def test_a_head_of_keys_goes_with_the_queries_that_read_it(tmp_path: Path) -> None:
    cut = dissect(grouped_query_attention(), tmp_path).cut({"q": (0,)})
    shapes = _shapes(cut)
    assert [(12, 6), (12, 3), (12, 3), (6, 3)] == [shapes[name] for name in ("wq", "wk", "wv", "wo")]
    heads = {attr.name: attr.i for node in cut.graph.node for attr in node.attribute}
    assert (2, 1) == (heads["q_num_heads"], heads["kv_num_heads"])


def test_nothing_is_handed_over_where_computed_values_meet(tmp_path: Path) -> None:
    dissected = dissect(one_head(), tmp_path)
    taken = {"q": (Step(1, "similar", 3, 1.0),), "v": (Step(0, "similar", 2, 1.0),)}
    changed, done = compensate("merge", "auto", dissected.graph, dissected.analysis.groups, taken, dissected.evidence)
    assert {"wo"} == set(changed)
    assert ["dropped", "merged"] == [done[name][0].action for name in ("q", "v")]
    assert dissected.proof({"q": (1,), "v": (0,)}, changed).passed


def test_a_table_that_makes_and_reads_the_units_keeps_its_values(tmp_path: Path) -> None:
    """Handing weights over would change the embeddings themselves."""
    dissected = dissect(tied_embedding(), tmp_path)
    taken = {"e": (Step(1, "similar", 3, 1.0),), "h": ()}
    changed, _ = compensate("merge", "auto", dissected.graph, dissected.analysis.groups, taken, dissected.evidence)
    assert {"up"} == set(changed)
    assert dissected.proof({"e": (1,), "h": ()}, changed).passed
    assert (7, 11) == _shapes(dissected.cut({"e": (1,), "h": ()}))["table"]


def test_a_weight_that_is_used_twice_is_cut_once_on_both_axes(tmp_path: Path) -> None:
    cut = dissect(shared_weight(), tmp_path).cut({"first": (0, 4, 7)})
    assert (7, 7) == _shapes(cut)["w"]
    assert ["w", "w"] == [node.input[1] for node in cut.graph.node if node.op_type == "MatMul"]


def test_quantised_weights_are_cut_where_they_are_stored(tmp_path: Path) -> None:
    dissected = dissect(quantised(), tmp_path)
    shapes = _shapes(dissected.cut({"c": (0, 3), "d": (1,)}))
    assert (4, 3, 3, 3) == shapes["c1.q"]
    assert (4,) == shapes["c1.step"]
    assert (7, 4, 3, 3) == shapes["c2.q"]
    assert () == shapes["c2.step"]
    assert (4, 7) == shapes["fc.q"]
    assert "c1.q" == dissected.analysis.layers[0].weight


def test_quantised_weights_count_as_what_they_stand_for(tmp_path: Path) -> None:
    dissected = dissect(quantised(), tmp_path)
    graph, seen = dissected.graph, dissected.analysis.ties.seen
    steps = graph.constants["c1.step"].astype(np.float64).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(graph.constants["c1.q"] * steps, real(graph, "c1.q"))
    np.testing.assert_allclose(real(graph, "c1.q").reshape(6, -1), dissected.evidence["c"].rows)
    whole = shapes_after(seen, {})
    assert 6 * 27 == parameters(graph, whole, ["c1.q"])
    assert 0 == parameters(graph, whole, ["c1.zero"])
    assert cost(graph, whole).macs > 0


def test_a_quantised_weight_is_pruned_to_its_own_zero(tmp_path: Path) -> None:
    proto = quantised()
    for one in proto.graph.initializer:
        if one.name == "c1.zero":
            one.CopyFrom(onnx.numpy_helper.from_array(np.full(6, 5, np.int8), one.name))
    dissected = dissect(proto, tmp_path)
    request = PruneRequest.model_validate(
        {"criterion": {"name": "magnitude", "of": "weights"}, "amount": {"remove_weights": 0.5}}
    )
    assert isinstance(request.criterion, Magnitude)
    changed = sparsify(request, dissected.graph, dissected.analysis.layers[:1], Clues()).changed
    assert np.int8 == changed["c1.q"].dtype
    assert 81 <= int((changed["c1.q"] == 5).sum())


def test_equality_is_shown_before_activations_are_rounded(tmp_path: Path) -> None:
    """One step of a quantiser is a hundredth of the range; sums in another order may fall on either side of it."""
    dissected = dissect(quantised(), tmp_path)
    fine = dissected.cut({"c": (0,), "d": ()})
    smooth = surgery.to_proto(dissected.loaded.model, ["y"])
    assert 2 == sum(node.op_type == "Identity" for node in smooth.graph.node)
    assert not any(node.op_type == "Identity" for node in fine.graph.node)
    rounded, exact = run(quantised(), dissected.feeds)[0], run(smooth, dissected.feeds)[0]
    assert 0 < np.abs(rounded - exact).max() < 0.1


def test_half_precision_is_masked_in_half_precision(tmp_path: Path) -> None:
    """Between computed operands there is no weight to tell the type from."""
    proto = one_head()
    for one in proto.graph.initializer:
        half = onnx.numpy_helper.to_array(one).astype(np.float16)
        one.CopyFrom(onnx.numpy_helper.from_array(half, one.name))
    for put in (*proto.graph.input, *proto.graph.output):
        put.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    feeds = {"x": np.random.default_rng(0).standard_normal((16, 5, 12)).astype(np.float16)}
    assert dissect(proto, tmp_path, given=feeds).proof({"q": (0, 1), "v": (2,)}).passed


def _spoil(monkeypatch: pytest.MonkeyPatch, key: str, **changes: object) -> None:
    monkeypatch.setitem(ops.RULES, key, replace(ops.RULES[key], **changes))


def test_the_oracle_sees_a_layer_norm_that_is_taken_for_an_elementwise_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def elementwise_tie(op: normalisation.Op, ties: Ties) -> None:
        elementwise.tie(op, ties)

    _spoil(monkeypatch, "LayerNormalization", tie=elementwise_tie)
    node = Node("LayerNormalization", ["c", "ones"], "i", {"axis": 1})
    with pytest.raises(AssertionError):
        assert dissect(normalised_over(node), tmp_path).proof({"c1": (0, 1, 2)}).passed


def test_the_oracle_sees_groups_that_are_cut_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _spoil(monkeypatch, "GroupNormalization", tie=normalisation.tie_instance)
    assert not dissect(group_norm(), tmp_path).proof({"c1": (0, 4, 8)}).passed


def test_the_oracle_sees_groups_of_a_transposed_convolution_that_are_not_kept_equal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A transposed convolution's weight read like that of an ordinary one."""
    _spoil(monkeypatch, "ConvTranspose", tie=convolution.tie)
    with pytest.raises(AssertionError):
        dissect(transposed(), tmp_path)
    _spoil(monkeypatch, "ConvTranspose", tie=transposed_rules.tie, follow=nothing_follows)
    with pytest.raises(Exception, match="group"):
        dissect(transposed_depthwise(), tmp_path).proof({"c1": (0, 1)})


def test_the_oracle_sees_head_counts_that_are_not_updated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _spoil(monkeypatch, "Attention", follow=nothing_follows)
    with pytest.raises(Exception, match="Incompatible dimensions for matrix multiplication"):
        dissect(grouped_query_attention(), tmp_path).proof({"q": (0,)})


def test_the_oracle_sees_heads_that_are_cut_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if every column of queries, keys and values were a unit of its own."""

    def columns(op: attention.Op, ties: Ties) -> None:
        for name in (*op.inputs[:3], op.outputs[0]):
            ties.tie((name, 2), (op.inputs[0], 2))

    _spoil(monkeypatch, "Attention", tie=columns)
    nodes = [Node("MatMul", ["x", f"w{one}"], one) for one in "qkv"]
    nodes += [
        Node("Attention", list("qkv"), "o", {"q_num_heads": 2, "kv_num_heads": 2}),
        Node("MatMul", ["o", "wo"], "y"),
    ]
    weights = {**{f"w{one}": (12, 8) for one in "qkv"}, "wo": (8, 3)}
    proto = model(nodes, weights, {"x": ["N", 5, 12]}, ["y"], opset=23)
    assert not dissect(proto, tmp_path).proof({"q": (0, 5)}).passed


def test_the_oracle_sees_a_contraction_that_nobody_masks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Queries and keys lose a column, and the masked model does not know of it."""
    honest = surgery.masks

    def forgetful(ties: Ties, groups: Iterable[Group], gone: Gone) -> dict[tuple[int, int], Array]:
        known = [replace(one, consumers=tuple(read for read in one.consumers if read.weight)) for one in groups]
        return honest(ties, known, gone)

    dissected = dissect(one_head(), tmp_path)
    assert dissected.proof({"q": (0, 1, 2), "v": ()}).passed
    monkeypatch.setattr(surgery, "masks", forgetful)
    assert not dissected.proof({"q": (0, 1, 2), "v": ()}).passed


@pytest.mark.parametrize("build", [quantised, grouped_query_attention, tied_embedding])
def test_a_whole_job_counts_what_the_file_holds(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    options = {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}}
    report = job(tmp_path, options, build(), labels=False)
    assert report.exactness.passed
    assert report.exactness.mask_has_effect
    held = [onnx.load(tmp_path / "artifact.onnx"), build()]
    read = {node.input[0] for node in held[0].graph.node if node.op_type == "DequantizeLinear"}
    after, before = (
        sum(
            int(np.prod(one.dims))
            for one in proto.graph.initializer
            if one.data_type == onnx.TensorProto.FLOAT or one.name in read
        )
        for proto in held
    )
    assert (before, after) == (report.before.parameters, report.after.parameters)
    assert after < 0.7 * before
