"""Targets behind a ReLU: the one-sided error is what passes it, and every step lowers that."""

import numpy as np
import torch

from worker.engine.refit.normal import Sums, solve
from worker.engine.refit.rectified import Rows

FEATURES, OUTPUTS, ROWS = 6, 4, 500


def problem(sign: float = 1.0) -> tuple[Rows, Sums, torch.Tensor, torch.Tensor]:
    """Targets that are a ReLU's input, from more features than the fit may use; floors that differ from row to row."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(1, ROWS, FEATURES, generator=generator)
    w = torch.randn(1, FEATURES, OUTPUTS, generator=generator)
    floors = 0.3 * torch.randn(1, ROWS, OUTPUTS, generator=generator)
    targets = features @ w - 0.5
    rows = Rows(torch.full((1, 1, OUTPUTS), sign), True)
    rows.add(features, targets, floors)
    sums = Sums(1, FEATURES, OUTPUTS, True, "cpu")
    sums.add(features, targets)
    start = torch.cat([w, torch.full((1, 1, OUTPUTS), -0.5)], dim=1).to(torch.float64)
    return rows, sums, start, torch.tensor([0, 1, 2, 3, 6])


def passed(rows: Rows, w: torch.Tensor, sign: float) -> float:
    """The same, said as the network does: the squared difference behind the ReLU, and all of it above the floor."""
    features, targets, floors = rows.chunks[0]
    found = features @ w.float()
    above = sign * (targets - floors) > 0
    relu = torch.relu(sign * (found - floors)) - torch.relu(sign * (targets - floors))
    wrong = torch.where(above, found - targets, relu)
    return float(wrong.square().mean(dim=1).sum())


def test_the_error_is_what_passes_the_relu() -> None:
    for sign in (1.0, -1.0):
        rows, _, w, _ = problem(sign)
        off = w + 0.2
        np.testing.assert_allclose(float(rows.error(off).sum()), passed(rows, off, sign), rtol=1e-4)
        assert float(rows.error(w).sum()) < 1e-10


def test_each_step_lowers_it_and_the_first_is_worth_much() -> None:
    for sign in (1.0, -1.0):
        rows, sums, start, kept = problem(sign)
        normal = sums.means()
        w = solve(normal, start, kept, 0.0)
        errors = [float(rows.error(w).sum())]
        for _ in range(5):
            w = solve(rows.retargeted(normal, w), start, kept, 0.0)
            errors.append(float(rows.error(w).sum()))
        assert sorted(errors, reverse=True) == errors
        assert errors[-1] < 0.9 * errors[0]


def test_a_step_towards_the_plain_targets_lowers_nothing() -> None:
    rows, sums, start, kept = problem()
    normal = sums.means()
    w = solve(normal, start, kept, 0.0)
    assert float(rows.error(solve(normal, start, kept, 0.0)).sum()) == float(rows.error(w).sum())
