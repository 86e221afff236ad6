"""A budget is met at the least cost, whatever the savings depend on."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product

import numpy as np
import pytest

from worker.engine import share as module
from worker.engine.share import hull, share_out


def test_the_hull_leaves_out_what_lies_above_it() -> None:
    assert [0, 1, 2, 3] == hull([1.0, 2.0, 3.0])
    assert [0, 3] == hull([5.0, 1.0, 0.0])
    assert [0, 1, 4] == hull([1.0, 5.0, 1.0, 0.5])
    assert [0] == hull([])


def spent(lost: Mapping[str, int]) -> float:
    """Two layers in a row, as MACs are: what one loses makes the other cheaper."""
    return float((8 - lost.get("a", 0)) * (6 - lost.get("b", 0)) + 5 * (6 - lost.get("b", 0)))


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4, 0.2])
def test_close_to_the_best_of_all_ways(share: float) -> None:
    """Costs rise along each group, as those of elimination mostly do."""
    rng = np.random.default_rng(3)
    costs = {"a": sorted(rng.uniform(0, 1, 7)), "b": sorted(rng.uniform(0, 1, 5))}
    budget = share * spent({})
    lost = share_out(costs, spent, budget)
    assert spent(lost) <= budget

    def total(some: Mapping[str, int]) -> float:
        return float(sum(sum(costs[name][:count]) for name, count in some.items()))

    ways = [{"a": a, "b": b} for a, b in product(range(8), range(6)) if spent({"a": a, "b": b}) <= budget]
    best = min(map(total, ways))
    assert total(lost) <= 1.35 * best
    assert max(map(total, ways)) > 1.35 * best or share < 0.3


def problems() -> Iterator[tuple[dict[str, list[float]], float, float]]:
    """Costs, a budget, and the least that any way to meet it costs."""
    rng = np.random.default_rng(0)
    for number in range(120):
        costs = {"a": list(rng.uniform(0, 1, 7)), "b": list(rng.uniform(0, 1, 5))}
        if number % 2:  # rising, as those of elimination mostly are
            costs = {name: sorted(some) for name, some in costs.items()}
        budget = rng.uniform(0.2, 0.95) * spent({})
        ways = [{"a": a, "b": b} for a, b in product(range(8), range(6)) if spent({"a": a, "b": b}) <= budget]
        yield costs, budget, min(total(costs, way) for way in ways)


def over(budget: float, lost: Mapping[str, int]) -> float:
    return max(spent(lost) - budget, 0.0)


def total(costs: Mapping[str, Sequence[float]], lost: Mapping[str, int]) -> float:
    return float(sum(sum(costs[name][:count]) for name, count in lost.items()))


@pytest.mark.parametrize("clipped", [False, True])
def test_exchanges_find_the_best_where_the_greedy_way_misses_it(clipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`clipped`: what is spent is only said beyond the budget, as the engine's budgets do."""
    missed = {0: 0, module.LOOKS: 0}
    for looks in missed:
        monkeypatch.setattr(module, "LOOKS", looks)
        for costs, budget, least in problems():
            beyond = partial(over, budget)
            lost = share_out(costs, beyond, 0.0) if clipped else share_out(costs, spent, budget)
            assert spent(lost) <= budget
            missed[looks] += total(costs, lost) > least + 1e-9
    assert missed[0] > 20
    assert 0 == missed[max(missed)]


def test_the_expensive_group_is_left_alone() -> None:
    lost = share_out({"a": [1e-6] * 7, "b": [1.0] * 5}, spent, 0.6 * spent({}))
    assert {"a": 7, "b": 0} == share_out({"a": [1e-6] * 7, "b": [1.0] * 5}, spent, spent({"a": 7}))
    assert lost["b"] == 0


def test_groups_that_save_nothing_go_last() -> None:
    free = share_out({"a": [0.5] * 7, "dead weight": [0.1] * 9}, spent, 0.7 * spent({}))
    assert 0 == free["dead weight"]


def test_what_cannot_be_met_takes_all() -> None:
    assert {"a": 7, "b": 5} == share_out({"a": [1.0] * 7, "b": [1.0] * 5}, spent, 0.0)


def test_only_certain_numbers_may_go() -> None:
    costs = {"a": [0.1] * 7, "b": [1.0] * 5}
    lost = share_out(costs, spent, 0.5 * spent({}), {"a": [0, 4], "b": [0, 2, 4]})
    assert {"a": 4, "b": 2} == lost
    assert lost != share_out(costs, spent, 0.5 * spent({}))


def peak(lost: Mapping[str, int]) -> float:
    """The larger of two: whichever it is not saves nothing, until it is."""
    return float(max(8 - lost.get("a", 0), 6 - lost.get("b", 0)))


def test_a_peak_that_moves_is_followed() -> None:
    assert {"a": 5, "b": 3} == share_out({"a": [1.0] * 7, "b": [0.1] * 5}, peak, 3.0)
