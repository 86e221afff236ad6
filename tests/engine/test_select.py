"""Each way of saying how much changes what goes, and no budget is exceeded."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from schemas.amount import KeepKind
from schemas.errors import EspalierError
from schemas.request import PruneRequest, Scope, parse_options
from tests.engine.dissect import Dissected, dissect
from tests.engine.nets import cnn, dense_block
from worker.engine import cost
from worker.engine.budget import Quantities
from worker.engine.criteria import ranking
from worker.engine.select import choose, group_in_scope, in_scope, units_lost


def lost(dissected: Dissected, options: Mapping[str, object]) -> dict[str, int]:
    request = parse_options({"compensation": "none", **options})
    return {name: len(steps) for name, steps in taken(dissected, request).items()}


def taken(dissected: Dissected, request: PruneRequest) -> "dict[str, tuple]":  # type: ignore[type-arg]
    groups = dissected.analysis.groups
    return choose(request, ranking(request.criterion), groups, dissected.evidence, sizes(dissected))


def sizes(dissected: Dissected, eight_bits: bool = False) -> Quantities:
    """One millisecond for each operator, and no byte but for weights."""
    graph = dissected.graph
    times = {op.index: 1.0 for op in graph.ops}
    return Quantities(graph, dissected.analysis.ties.seen, dissected.analysis.groups, 0, lambda: times, eight_bits)


def costs(dissected: Dissected, gone: Mapping[str, int]) -> cost.Cost:
    axes = cost.axes_gone(dissected.analysis.groups, gone)
    return cost.cost(dissected.graph, cost.shapes_after(dissected.analysis.ties.seen, axes))


MAGNITUDE = {"criterion": {"name": "magnitude"}}


def test_remove_units_takes_that_share_of_every_group(tmp_path: Path) -> None:
    assert {"c1": 3, "c2": 3, "fc1": 4} == lost(
        dissect(cnn(), tmp_path), {**MAGNITUDE, "amount": {"remove_units": 0.5}}
    )
    assert {"c1": 1, "c2": 1, "fc1": 1} == lost(
        dissect(cnn(), tmp_path), {**MAGNITUDE, "amount": {"remove_units": 0.2}}
    )


def test_half_a_unit_goes_whatever_the_size_of_the_group() -> None:
    assert [1, 1, 2, 2, 3, 3, 4, 4] == [units_lost(0.5, units) for units in range(1, 9)]
    assert [0, 15] == [units_lost(0.1, 4), units_lost(0.145, 100)]


@pytest.mark.parametrize(("kind", "what"), [("keep_macs", "macs"), ("keep_parameters", "parameters")])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_budget_is_met_and_nearly_used(kind: str, what: str, share: float, tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    whole = getattr(costs(dissected, {}), what)
    gone = lost(dissected, {**MAGNITUDE, "amount": {kind: share}})
    assert getattr(costs(dissected, gone), what) <= share * whole
    # One uniform share: giving the last unit of any group back to all of them breaks the budget again.
    fewer = {name: max(count - 1, 0) for name, count in gone.items()}
    assert getattr(costs(dissected, fewer), what) > share * whole


def test_the_two_budgets_differ(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    macs = lost(dissected, {**MAGNITUDE, "amount": {"keep_macs": 0.3}})
    parameters = lost(dissected, {**MAGNITUDE, "amount": {"keep_parameters": 0.3}})
    assert macs != parameters


def test_a_share_of_units_is_taken_where_it_costs_least(tmp_path: Path) -> None:
    """18 units in three groups: nine go whichever way, from the groups where the loss changes least or evenly."""
    dissected = dissect(cnn(), tmp_path, samples=64)
    amount = {"criterion": {"name": "obs"}, "amount": {"remove_units": 0.5}}
    shared = lost(dissected, amount)
    even = lost(dissected, {**amount, "share_out": "uniform"})
    assert {"c1": 3, "c2": 3, "fc1": 4} == even
    assert 9 == sum(shared.values())
    assert even != shared


def test_an_unreachable_budget_names_the_least_that_can_be_reached(tmp_path: Path) -> None:
    with pytest.raises(EspalierError, match=r"asks for .* MACs; removing all that may go leaves") as caught:
        lost(dissect(cnn(), tmp_path), {**MAGNITUDE, "amount": {"keep_macs": 0.0001}})
    assert "amount_unreachable" == caught.value.code
    with pytest.raises(EspalierError) as caught:
        lost(dissect(cnn(), tmp_path), {**MAGNITUDE, "amount": {"keep_latency": 0.0001}})
    assert " asks for 0 " not in caught.value.failure.detail  # it is a fraction of a millisecond


@pytest.mark.parametrize("kind", ["keep_file_bytes", "keep_peak_ram", "keep_latency"])
def test_what_a_device_has_little_of_is_a_budget_too(kind: KeepKind, tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    some, whole = sizes(dissected), sizes(dissected).of(kind, {})
    gone = lost(dissected, {**MAGNITUDE, "amount": {kind: 0.75}})
    assert 0 < sum(gone.values())
    assert 0.4 * whole < some.of(kind, gone) <= 0.75 * whole


def test_several_budgets_hold_at_once(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    some = sizes(dissected)
    keeps: dict[KeepKind, float] = {"keep_macs": 0.6, "keep_parameters": 0.4, "keep_peak_ram": 0.9}
    both = lost(dissected, {**MAGNITUDE, "amount": keeps})
    assert all(some.of(kind, both) <= share * some.of(kind, {}) for kind, share in keeps.items())
    alone = [lost(dissected, {**MAGNITUDE, "amount": {kind: share}}) for kind, share in keeps.items()]
    assert sum(both.values()) == max(sum(one.values()) for one in alone)


def test_what_stays_is_a_multiple_or_everything(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    units = {group.name: group.units for group in dissected.analysis.groups}
    for amount in ({"remove_units": 0.4}, {"keep_macs": 0.5}):
        gone = lost(dissected, {**MAGNITUDE, "amount": amount, "round_to": 2})
        kept = {name: units[name] - gone[name] for name in units}
        assert all(count % 2 == 0 or count == units[name] for name, count in kept.items())
        assert gone != lost(dissected, {**MAGNITUDE, "amount": amount})


def test_eight_bits_are_counted_before_they_are_there(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    for kind in ("keep_file_bytes", "keep_peak_ram"):
        small, large = sizes(dissected, eight_bits=True).of(kind, {}), sizes(dissected).of(kind, {})
        assert 0.2 * large < small < 0.7 * large
    assert sizes(dissected, eight_bits=True).of("keep_macs", {}) == sizes(dissected).of("keep_macs", {})


def test_minimum_kept_holds_for_every_amount(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    scope = {"scope": {"minimum_kept": 4}}
    assert {"c1": 2, "c2": 1, "fc1": 3} == lost(dissected, {**MAGNITUDE, **scope, "amount": {"remove_units": 0.9}})
    wide = {"criterion": {"name": "distinctiveness", "angle_deg": 179, "opposite_deg": 180}}
    assert {"c1": 2, "c2": 1, "fc1": 3} == lost(dissected, {**wide, **scope})
    assert {"c1": 5, "c2": 4, "fc1": 6} == lost(dissected, wide)


def test_threshold_is_the_criterions_own(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    few = lost(dissected, {"criterion": {"name": "distinctiveness", "angle_deg": 1}})
    many = lost(dissected, {"criterion": {"name": "distinctiveness", "angle_deg": 60}})
    assert sum(few.values()) < sum(many.values())


def test_scope_goes_by_layer_node_and_weight_names(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    layers = {layer.name: layer for layer in dissected.analysis.layers}
    for pattern in ("fc1", "*fc1*", "/g/Gemm", "fc1.weight"):
        assert in_scope(Scope(include=(pattern,)), layers["fc1"])
        assert not in_scope(Scope(include=(pattern,)), layers["c1"])
        assert not in_scope(Scope(exclude=(pattern,)), layers["fc1"])


def test_a_group_is_out_of_scope_if_one_of_its_makers_is_excluded(tmp_path: Path) -> None:
    from tests.engine.nets import residual

    stem = next(group for group in dissect(residual(), tmp_path).analysis.groups if group.name == "stem")
    assert group_in_scope(Scope(include=("b1",)), stem)
    assert not group_in_scope(Scope(include=("stem",), exclude=("b1",)), stem)


def test_groups_that_share_an_axis_are_costed_together(tmp_path: Path) -> None:
    dissected = dissect(dense_block(), tmp_path)
    both = costs(dissected, {"a": 2, "b": 3})
    onnx_parameters = sum(
        one.dims[0]
        * (one.dims[1] * one.dims[2] * one.dims[3] if len(one.dims) == 4 else one.dims[1] if one.dims[1:] else 1)
        for one in dissected.cut({"a": (0, 1), "b": (0, 1, 2)}).graph.initializer
    )
    assert onnx_parameters == both.parameters


def test_scope_goes_by_operator(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    layers = {layer.name: layer for layer in dissected.analysis.layers}
    assert {"c1": True, "c2": True, "fc1": False, "fc2": False} == {
        name: in_scope(Scope(operators=("Conv",)), layer) for name, layer in layers.items()
    }
    assert in_scope(Scope(operators=("Conv", "Gemm")), layers["fc1"])
    assert not in_scope(Scope(operators=("Conv",), exclude=("c1",)), layers["c1"])
