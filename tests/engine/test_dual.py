"""Row by row the fit is the one that the Gram gives, and kinds of consumers are fitted as well by it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine import nets
from tests.engine.dissect import dissect
from tests.engine.test_consumers import halved, turned
from tests.engine.test_reconstruct import apart, rebuilt
from worker.engine.refit import readings as limits
from worker.engine.refit.dual import Trial, dual
from worker.engine.refit.normal import Sums, solve
from worker.engine.refit.rectified import Rows

FEATURES, OUTPUTS, ROWS = 30, 5, 20
KEPT = torch.arange(0, FEATURES, 2)


def problem(constant: bool) -> tuple[Rows, Sums, torch.Tensor]:
    """Fewer rows than features, in two blocks, with means."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(2, ROWS, FEATURES, generator=generator, dtype=torch.float64) + 0.5
    w = torch.randn(2, FEATURES + constant, OUTPUTS, generator=generator, dtype=torch.float64)
    targets = features @ w[:, :FEATURES] + torch.randn(2, ROWS, OUTPUTS, generator=generator, dtype=torch.float64)
    rows = Rows(torch.ones(2, 1, OUTPUTS), constant)
    rows.add(features, targets, torch.full_like(targets, -torch.inf))
    sums = Sums(2, FEATURES, OUTPUTS, constant, "cpu")
    sums.add(features, targets)
    return rows, sums, w


@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("constant", [True, False])
def test_row_by_row_is_what_the_gram_gives(constant: bool, ridge: float) -> None:
    rows, sums, w = problem(constant)
    kept = torch.cat([KEPT, torch.tensor([FEATURES])]) if constant else KEPT
    plain = torch.zeros_like(w)
    plain[:, kept] = w[:, kept]
    found = dual(rows, KEPT, constant).solve(plain, rows.targets(), ridge)
    expected = solve(sums.means(), w, kept, ridge)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert float((dual(rows, KEPT, constant).solve(plain, rows.targets(), 2 * ridge) - expected).abs().max()) > 1e-4


def test_steps_behind_a_relu_lower_what_passes_it() -> None:
    rows, _, w = problem(True)
    rows.chunks = [(features, targets, torch.zeros_like(targets)) for features, targets, _ in rows.chunks]
    plain = torch.zeros_like(w)
    plain[:, KEPT] = w[:, KEPT]

    def error(weights: torch.Tensor) -> float:
        return float(rows.error(weights).sum())

    trial = Trial(rows, plain, KEPT, error, error(plain))
    (_, _, without), (_, _, after) = (trial.best({True: 1.0}, (0.3,), steps) for steps in (0, 6))
    assert after < 0.9 * without < error(plain)


def test_nothing_better_is_nothing_changed() -> None:
    rows, _, w = problem(True)
    best, ridge, lowest = Trial(rows, w, KEPT, lambda _: 1.0, 1.0).best({True: 1.0}, (1e-2,), 6)
    assert (True, None, 1.0) == (torch.equal(best, w), ridge, lowest)


@pytest.mark.parametrize(
    "name", ["gemm_reader", "gemm_without_bias", "matmul", "matmul_of_blocks", "einsum", "convolution", "stream"]
)
def test_consumers_fitted_row_by_row(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_FEATURES", 4)
    dissected, gone = halved(name, tmp_path)
    done = rebuilt(dissected, gone)
    assert any(one.reading.wide for one in done.refits)
    assert dissected.proof(gone, done.changed).passed
    left = apart(dissected, gone, {})
    assert apart(dissected, gone, done.changed) < 0.1 * left
    assert apart(dissected, gone, turned(dissected, done.changed)) > left


def test_behind_a_relu_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_FEATURES", 4)
    dissected = dissect(nets.mlp(), tmp_path, samples=200)
    gone = dissected.random_half()
    done = rebuilt(dissected, gone)
    assert any(one.ridge is not None for one in done.refits)
    assert dissected.proof(gone, done.changed).passed
    assert apart(dissected, gone, done.changed) < 0.97 * apart(dissected, gone, {})
