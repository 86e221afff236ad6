"""Readings with more features than a Gram can hold: the same least squares, said between rows instead of features.

In: rows of features and targets, the weights as they are, and which features stay. Out: weights on those. Drawn towards
the weights W0 by a ridge, the best are W0 + F' (F F' + n ridge)^-1 (T - F W0), rows less their means where there is a
constant (Saunders and others 1998); the matrix to be solved is rows by rows, however many features there are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from worker.engine.refit.normal import spd_solve
from worker.engine.refit.rectified import Rows


@dataclass(frozen=True, eq=False)
class Dual:
    """`features` (blocks, rows, kept features), less their mean where `constant`; `products` of all rows with all."""

    kept: torch.Tensor
    constant: bool
    features: torch.Tensor
    means: torch.Tensor  # (blocks, 1, kept features)
    products: torch.Tensor  # (blocks, rows, rows)
    level: torch.Tensor  # (blocks,): the mean square of a feature, gone or kept

    def solve(self, plain: torch.Tensor, targets: torch.Tensor, ridge: float) -> torch.Tensor:
        """Weights (blocks, features and the constant, outputs) that meet the targets, drawn towards the plain ones."""
        own = plain[:, self.kept].to(self.features.dtype)
        raw = self.features + self.means
        missing = targets - raw @ own
        if self.constant:
            missing = missing - plain[:, -1:].to(missing.dtype)
        offset = missing.mean(dim=1, keepdim=True) if self.constant else torch.zeros_like(missing[:, :1])
        count = self.features.shape[1]
        lifted = self.products + torch.diag_embed(
            (ridge * count * self.level).clamp_min(torch.finfo(torch.float64).tiny)[:, None].expand(-1, count)
        )
        shares = spd_solve(lifted, (missing - offset).to(torch.float64)).to(self.features.dtype)
        step = self.features.transpose(1, 2) @ shares
        found = plain.clone()
        found[:, self.kept] += step.to(plain.dtype)
        if self.constant:
            found[:, -1:] += (offset - self.means @ step).to(plain.dtype)
        return found


def dual(rows: Rows, kept: torch.Tensor, constant: bool) -> Dual:
    """`kept` are features, without the constant; `constant`: one may be fitted."""
    whole = torch.cat([features for features, _, _ in rows.chunks], dim=1)
    level = (whole[:, :, :-1] if rows.constant else whole).square().mean(dim=(1, 2), dtype=torch.float64)
    raw = whole[:, :, kept]
    means = raw.mean(dim=1, keepdim=True) if constant else torch.zeros_like(raw[:, :1])
    features = raw - means
    products = (features @ features.transpose(1, 2)).to(torch.float64)
    return Dual(kept, constant, features, means, products, level)


@dataclass(frozen=True, eq=False)
class Trial:
    """Rows to fit, the weights that stay as they are, and the error that weights have on held-back samples."""

    rows: Rows
    plain: torch.Tensor
    kept: torch.Tensor
    error: Callable[[torch.Tensor], float]
    before: float

    def best(
        self, constants: Mapping[bool, float], ridges: Sequence[float], rectified_steps: int
    ) -> tuple[torch.Tensor, float | None, float]:
        """Weights, their ridge (None where nothing was better) and their error. `constants`: without and with a
        constant, and to which share of the error that has to bring it."""
        best, ridge, lowest, used = self.plain, None, self.before, None
        for constant, worth in constants.items():
            own = dual(self.rows, self.kept, constant)
            for candidate in ridges:
                weights = own.solve(self.plain, self.rows.targets(), candidate)
                if (found := self.error(weights)) < worth * lowest:
                    best, ridge, lowest, used, worth = weights, candidate, found, own, 1.0
        weights = best
        for _ in range(rectified_steps if used is not None and ridge is not None else 0):
            assert used is not None
            assert ridge is not None
            weights = used.solve(self.plain, self.rows.targets(weights), ridge)
            if (found := self.error(weights)) < lowest:
                best, lowest = weights, found
        return best, ridge, lowest
