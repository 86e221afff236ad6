"""Each way of saying how much changes what goes, and no budget is exceeded."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from schemas.errors import EspalierError
from schemas.request import PruneRequest, Scope, parse_options
from tests.engine.dissect import Dissected, dissect
from tests.engine.nets import cnn, dense_block
from worker.engine import cost
from worker.engine.criteria import ranking
from worker.engine.select import choose, group_in_scope, in_scope, units_lost


def lost(dissected: Dissected, options: Mapping[str, object]) -> dict[str, int]:
    request = parse_options({"compensation": "none", **options})
    return {name: len(steps) for name, steps in taken(dissected, request).items()}


def taken(dissected: Dissected, request: PruneRequest) -> "dict[str, tuple]":  # type: ignore[type-arg]
    groups = dissected.analysis.groups
    return choose(request, ranking(request.criterion), groups, dissected.evidence, lambda gone: costs(dissected, gone))


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
    with pytest.raises(EspalierError, match=r"asks for .* macs; removing all that may go leaves") as caught:
        lost(dissect(cnn(), tmp_path), {**MAGNITUDE, "amount": {"keep_macs": 0.0001}})
    assert "amount_unreachable" == caught.value.code


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
