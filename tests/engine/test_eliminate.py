"""Elimination against brute force: what removing a unit costs is what a fresh fit without it loses."""

import numpy as np
import pytest
import torch

from schemas.errors import EspalierError
from worker.engine.refit.eliminate import Reader, order, reader
from worker.engine.refit.normal import Normal, Sums, penalty, solve, spd_solve

UNITS, TAPS, OUTPUTS, ROWS = 5, 2, 3, 400
RIDGE = 1e-3


def rows_of_units() -> torch.Tensor:
    return torch.arange(UNITS * TAPS).reshape(UNITS, TAPS)


def problem(seed: int = 0, blocks: int = 1) -> tuple[Normal, torch.Tensor]:
    """Correlated features, targets that are nearly linear in them, and weights that are a little off."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(UNITS * TAPS, UNITS * TAPS, generator=generator)
    features = torch.randn(blocks, ROWS, UNITS * TAPS, generator=generator) @ mix + 0.5
    w = torch.randn(blocks, UNITS * TAPS, OUTPUTS, generator=generator)
    targets = features @ w + 0.3 + 0.1 * torch.randn(blocks, ROWS, OUTPUTS, generator=generator)
    sums = Sums(blocks, UNITS * TAPS, OUTPUTS, True, "cpu")
    sums.add(features, targets)
    constant = torch.zeros(blocks, 1, OUTPUTS)
    return sums.means(), torch.cat([w + 0.05, constant], dim=1).to(torch.float64)


def loss(normal: Normal, w: torch.Tensor, start: torch.Tensor) -> float:
    """What the fit minimises: the error, and the pull towards the weights it started from."""
    pull = (penalty(normal, RIDGE)[:, :, None] * (w - start).square()).sum()
    return float(normal.error(w).sum() + pull)


def test_values_whose_products_are_no_numbers_are_refused() -> None:
    sums = Sums(1, 2, 1, True, "cpu")
    sums.add(torch.full((1, 3, 2), 1e30), torch.ones(1, 3, 1))
    with pytest.raises(EspalierError, match="grow so large") as caught:
        sums.means()
    assert "data_not_finite" == caught.value.code
    with pytest.raises(EspalierError, match="grow so large"):
        spd_solve(torch.full((1, 2, 2), torch.nan), torch.ones(1, 2, 1))


def test_an_error_is_the_mean_over_rows_whatever_is_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    features, targets = torch.randn(2, 50, 4, generator=generator), torch.randn(2, 50, 5, generator=generator)
    w = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    w[:, 1] = 0.0
    exact = (targets - features @ w.float()).square().mean(dim=1)
    sums = Sums(2, 4, 5, False, "cpu")
    sums.add(features, targets)
    for some in (512, 2):
        monkeypatch.setattr("worker.engine.refit.normal.OUTPUTS", some)
        np.testing.assert_allclose(sums.means().error(w), exact, rtol=1e-5)
    w[:, 1] = 0.1
    assert not np.allclose(sums.means().error(w), exact, rtol=1e-5)


def kept_without(*units: int) -> torch.Tensor:
    gone = rows_of_units()[list(units)].ravel() if units else torch.empty(0, dtype=torch.int64)
    return torch.tensor([row for row in range(UNITS * TAPS + 1) if row not in gone])


def started(normal: Normal, w: torch.Tensor) -> Reader:
    return reader(normal, w, rows_of_units(), RIDGE, torch.ones(len(w), OUTPUTS, dtype=torch.float64))


def fresh(normal: Normal, w: torch.Tensor, *gone: int) -> torch.Tensor:
    """A fit that never saw those units, drawn to zero there as elimination is."""
    start = w.clone()
    start[:, rows_of_units()[list(gone)].ravel()] = w[:, rows_of_units()[list(gone)].ravel()]
    return solve(normal, start, kept_without(*gone), RIDGE)


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_cost_is_what_the_fit_without_the_unit_loses(blocks: int) -> None:
    normal, w = problem(1, blocks)
    best = loss(normal, fresh(normal, w), w)
    costs = started(normal, w).costs(torch.arange(UNITS))
    for unit in range(UNITS):
        assert loss(normal, fresh(normal, w, unit), w) - best == pytest.approx(float(costs[unit]), rel=1e-6)


def test_after_a_removal_weights_are_those_of_a_fresh_fit() -> None:
    normal, w = problem(2)
    one = started(normal, w)
    for unit in (3, 0):
        one.remove(unit)
    weights = fresh(normal, w, 0, 3)[:, kept_without(0, 3)]
    second = loss(normal, fresh(normal, w, 0, 3, 1), w) - loss(normal, fresh(normal, w, 0, 3), w)
    for _ in range(2):  # what waits, and what has been done
        assert second == pytest.approx(float(one.costs(torch.tensor([1]))), rel=1e-6)
        one.settle()
    np.testing.assert_allclose(one.q, weights @ weights.transpose(1, 2), atol=1e-8)


def test_a_stale_inverse_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    normal, w = problem(2)
    one = started(normal, w)
    one.remove(3)
    monkeypatch.setattr(Reader, "_up_to_date", lambda self, rows: (self.p[:, rows], self.q[:, rows]))
    one.remove(0)
    second = loss(normal, fresh(normal, w, 3, 0, 1), w) - loss(normal, fresh(normal, w, 3, 0), w)
    assert second != pytest.approx(float(one.costs(torch.tensor([1]))), rel=1e-2)


def one_by_one(p: torch.Tensor, w: torch.Tensor, rows: torch.Tensor, count: int) -> list[tuple[int, float]]:
    """The plain loop: all of P and W after every removal."""
    found: list[tuple[int, float]] = []
    for _ in range(count):
        costs = torch.full((len(rows),), torch.inf, dtype=torch.float64)
        for unit in set(range(len(rows))) - {unit for unit, _ in found}:
            own = rows[unit]
            costs[unit] = sum(
                (a[own] * torch.linalg.solve(b[own][:, own], a[own])).sum() for a, b in zip(w, p, strict=True)
            )
        unit = int(costs.argmin())
        found.append((unit, float(costs[unit])))
        across = p[:, :, rows[unit]]
        spread = across @ torch.linalg.inv(across[:, rows[unit]])
        w, p = w - spread @ w[:, rows[unit]], p - spread @ across.transpose(1, 2)
    return found


@pytest.mark.parametrize(("units", "each", "blocks"), [(90, 1, 1), (30, 3, 2)])
def test_updates_that_wait_change_nothing(units: int, each: int, blocks: int) -> None:
    generator = torch.Generator().manual_seed(9)
    features = units * each + 2  # the last ones belong to nobody
    acts = torch.randn(blocks, 3 * features, features, generator=generator, dtype=torch.float64)
    w = torch.randn(blocks, features, 4, generator=generator, dtype=torch.float64)
    p = torch.linalg.inv(acts.transpose(1, 2) @ acts / acts.shape[1])
    rows = torch.randperm(units * each, generator=generator).reshape(units, each)
    plain = one_by_one(p, w, rows, units - 1)
    found = order([Reader(p, w @ w.transpose(1, 2), rows)], units, units - 1)
    assert [unit for unit, _ in plain] == [unit for unit, _ in found]
    np.testing.assert_allclose([cost for _, cost in found], [cost for _, cost in plain], rtol=1e-9)


def test_the_order_takes_the_cheapest_each_time() -> None:
    normal, w = problem(4)
    found = order([started(normal, w)], UNITS, UNITS - 1)
    gone: list[int] = []
    for unit, cost in found:
        now = loss(normal, fresh(normal, w, *gone), w)
        others = {one: loss(normal, fresh(normal, w, *gone, one), w) - now for one in range(UNITS) if one not in gone}
        assert unit == min(others, key=lambda one: others[one])
        assert cost == pytest.approx(others[unit], rel=1e-5)
        gone.append(unit)


def test_two_readers_count_together() -> None:
    one, other = problem(5), problem(6)
    costs = [started(*some).costs(torch.arange(UNITS)) for some in (one, other)]
    first = order([started(*one), started(*other)], UNITS, 1)[0]
    assert int((costs[0] + costs[1]).argmin()) == first[0]
    assert float((costs[0] + costs[1]).min()) == pytest.approx(first[1])


def test_copies_are_free_and_a_great_ridge_is_the_plain_cut() -> None:
    normal, w = problem(7)
    features = torch.randn(1, ROWS, 1, generator=torch.Generator().manual_seed(8)).expand(1, ROWS, UNITS * TAPS)
    sums = Sums(1, UNITS * TAPS, OUTPUTS, True, "cpu")
    sums.add(features, features @ w[:, :-1].float())
    twins = sums.means()
    assert order([started(twins, w)], UNITS, 1)[0][1] < 1e-2 * float(twins.t.sum())
    plain = solve(normal, w, kept_without(2), 1e9)
    np.testing.assert_allclose(plain[:, kept_without(2)][:, :-1], w[:, kept_without(2)][:, :-1], atol=1e-5)
