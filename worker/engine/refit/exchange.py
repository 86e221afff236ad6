"""Elimination never looks back: here a unit that has gone changes places with one that stays, where that is better.

In: the normal equations of a group's one reader, and the units that elimination took, in order. Out: as many units, in
the same form. With P the inverse of the Gram over what stays and W = P B, bringing unit j back gains
tr(C' R^-1 C), where R = H_jj - H_jS P H_Sj and C = B_j - H_jS W; what removing unit i costs after that, follows from
P + U R^-1 U' and W - U R^-1 C with U = P H_Sj. Each exchange makes the error smaller, so that they come to an end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.engine.refit.normal import Normal, penalty, raised, spd_inverse

MOST = 32  # exchanges: each is a product of the Gram with all that has gone
TRIED = 8  # units that may come back, those first that gain most
WORTH_IT = 1e-3  # of the error: exchanges for less change nothing but the time

Ranked = Sequence[tuple[int, float]]


def exchanged(
    normal: Normal, w: torch.Tensor, rows: torch.Tensor, ridge: float, scale: torch.Tensor, gone: Ranked
) -> list[tuple[int, float]]:
    """`rows` (units, features of each); `scale` (blocks, outputs) turns outputs into what is judged."""
    found = list(gone)
    if not found or len(found) == len(rows):
        return found
    weight = penalty(normal, ridge)
    h = raised(normal.h.clone(), weight)
    b = (normal.b + weight[:, :, None] * w) * scale[:, None, :]
    total = float((normal.t * scale.square()).sum())
    for _ in range(MOST):
        standing = _Standing(h, b, rows, [unit for unit, _ in found])
        swap = standing.best_swap(WORTH_IT * max(total - standing.met(), 0.0))
        if swap is None:
            break
        back, out, cost = swap
        place = next(place for place, (unit, _) in enumerate(found) if unit == back)
        found[place] = (out, cost)
    return found


@dataclass(eq=False)
class _Standing:
    """What there is to say of one choice of units."""

    h: torch.Tensor
    b: torch.Tensor
    rows: torch.Tensor
    gone: list[int]

    def __post_init__(self) -> None:
        device, width = self.h.device, self.h.shape[1]
        stays = torch.ones(width, dtype=torch.bool, device=device)
        stays[self.rows[self.gone].ravel()] = False
        self.left = torch.nonzero(stays).ravel()
        place = torch.full((width,), -1, device=device)
        place[self.left] = torch.arange(len(self.left), device=device)
        gone = set(self.gone)
        self.staying = [unit for unit in range(len(self.rows)) if unit not in gone]
        self.own = place[self.rows[self.staying]]  # (units that stay, features of each), among those left
        self.p = spd_inverse(self.h[:, self.left][:, :, self.left])
        self.w = self.p @ self.b[:, self.left]

    def met(self) -> float:
        """How much of the targets' squares the units that stay explain."""
        return float((self.b[:, self.left] * self.w).sum())

    def best_swap(self, least: float) -> tuple[int, int, float] | None:
        """The unit that comes back, the one that goes for it, and what that one costs: the first of the most promising
        that gains more than `least`."""
        for place in self._gains().argsort(descending=True)[:TRIED].tolist():
            back = self.gone[place]
            gain, costs = self._with(back)
            out = int(costs.argmin())
            if gain - float(costs[out]) > least:
                return back, self.staying[out], float(costs[out])
        return None

    def _gains(self) -> torch.Tensor:
        """What each unit that has gone would gain: (units,)."""
        back = self.rows[self.gone]  # (units, k)
        some = back.ravel()
        across = self.h[:, some][:, :, self.left]
        missed = self.b[:, some] - across @ self.w
        missed, spread, across = (one.reshape(len(one), *back.shape, -1) for one in (missed, across @ self.p, across))
        rest = self.h[:, back[:, :, None], back[:, None, :]] - spread @ across.transpose(2, 3)
        gains: torch.Tensor = (torch.linalg.solve_ex(rest, missed)[0] * missed).sum(dim=(0, 2, 3))
        return gains

    def _with(self, back: int) -> tuple[float, torch.Tensor]:
        """What one gains, and what removing each of the others costs once it is there."""
        some = self.rows[back]
        across = self.h[:, some][:, :, self.left]  # (blocks, k, left)
        missed = self.b[:, some] - across @ self.w
        spread = across @ self.p
        rest = torch.linalg.inv_ex(self.h[:, some][:, :, some] - spread @ across.transpose(1, 2))[0]
        gain = float((rest @ missed * missed).sum())
        turned = spread[:, :, self.own].permute(0, 2, 3, 1)  # (blocks, units, k of each, k of the one)
        p = self.p[:, self.own[:, :, None], self.own[:, None, :]] + turned @ rest[:, None] @ turned.transpose(2, 3)
        w = self.w[:, self.own] - turned @ (rest @ missed)[:, None]
        return gain, (torch.linalg.solve_ex(p, w)[0] * w).sum(dim=(0, 2, 3))
