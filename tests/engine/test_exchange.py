"""Units change places only for the better, and what an exchange is said to gain is what fresh fits say."""

from itertools import combinations

import pytest
import torch

from tests.engine.test_eliminate import OUTPUTS, RIDGE, TAPS, UNITS, kept_without, loss, problem, rows_of_units
from worker.engine.refit import exchange as module
from worker.engine.refit.eliminate import order, reader
from worker.engine.refit.exchange import exchanged
from worker.engine.refit.normal import Normal, solve

SCALE = torch.ones(1, OUTPUTS, dtype=torch.float64)
SEEDS = range(40)


def best_loss(normal: Normal, w: torch.Tensor, gone: tuple[int, ...]) -> float:
    """Of a fresh fit on what is left."""
    return loss(normal, solve(normal, w, kept_without(*gone), RIDGE), w)


def both(normal: Normal, w: torch.Tensor, count: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    first = order([reader(normal, w, rows_of_units(), RIDGE, SCALE)], UNITS, count)
    return first, exchanged(normal, w, rows_of_units(), RIDGE, SCALE, first)


def units(gone: list[tuple[int, float]]) -> tuple[int, ...]:
    return tuple(unit for unit, _ in gone)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_never_worse_and_nearly_always_the_best_there_is(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_IT", 0.0)
    found = {"greedy": 0, "exchanged": 0}
    for seed in SEEDS:
        normal, w = problem(seed)
        losses = {gone: best_loss(normal, w, gone) for gone in combinations(range(UNITS), count)}
        least = 1.0001 * min(losses.values())
        first, then = both(normal, w, count)
        assert count == len(set(units(then)))
        before, after = (losses[tuple(sorted(units(one)))] for one in (first, then))
        assert after <= 1.0001 * before
        found["greedy"] += before <= least
        found["exchanged"] += after <= least
    assert found["exchanged"] >= found["greedy"]
    assert found["exchanged"] >= 0.9 * len(SEEDS)


def test_elimination_alone_misses_what_an_exchange_finds() -> None:
    """The sum of two others is the cheapest to lose at first, and the best to keep when both of them have to go."""
    changes = [units(both(*problem(seed), 3)[0]) != units(both(*problem(seed), 3)[1]) for seed in SEEDS]
    assert any(changes)
    assert not all(changes)


def test_what_an_exchange_costs_is_what_a_fresh_fit_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    checked = 0
    for seed in SEEDS:
        normal, w = problem(seed)
        first, then = both(normal, w, 3)
        swapped = [(old, new) for old, new in zip(first, then, strict=True) if old != new]
        for (back, _), (_, cost) in swapped:
            between = tuple(unit for unit in units(first) if unit != back)
            lost = best_loss(normal, w, units(then)) - best_loss(normal, w, between)
            assert cost == pytest.approx(lost, rel=1e-3)
            checked += 1
    assert checked


@pytest.mark.parametrize("gone", [[], [(unit, 0.0) for unit in range(UNITS)]])
def test_nothing_to_exchange(gone: list[tuple[int, float]]) -> None:
    normal, w = problem()
    assert gone == exchanged(normal, w, rows_of_units(), RIDGE, SCALE, gone)


def test_small_gains_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_IT", 1e9)
    for seed in SEEDS:
        first, then = both(*problem(seed), 3)
        assert first == then


def test_features_of_no_unit_stay() -> None:
    """What other groups feed the reader is there whatever goes."""
    normal, w = problem()
    some = rows_of_units()[:3]
    first = order([reader(normal, w, some, RIDGE, SCALE)], 3, 1)
    assert 1 == len(exchanged(normal, w, some, RIDGE, SCALE, first))
    assert 2 * 3 == TAPS * len(some)
