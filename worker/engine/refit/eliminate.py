"""Group Optimal Brain Surgeon: units in the order in which they are missed least, once the others have taken over.

In: for every reading of a group the inverse P of its Gram and the weights W = P B. Out: the order, and what each step
costs. Removing unit u, whose rows are S, costs tr(W_S' (P_SS)^-1 W_S) in each reading; then W and P are brought up to
date in closed form (Hassibi and Stork 1993, for groups of weights).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.engine.refit.normal import Normal, penalty, spd_solve

ORDER_RIDGE = 1e-3


@dataclass(eq=False)
class Reader:
    """One reading of the group that is being taken apart. `rows`: (units, features of each)."""

    p: torch.Tensor  # (blocks, features, features)
    w: torch.Tensor  # (blocks, features, outputs), scaled so that squares are shares of what is judged
    rows: torch.Tensor

    def costs(self, units: torch.Tensor) -> torch.Tensor:
        """What removing each of these units would cost: (units,)."""
        rows = self.rows[units]
        own = self.p[:, rows[:, :, None], rows[:, None, :]]  # (blocks, units, k, k)
        w = self.w[:, rows]  # (blocks, units, k, outputs)
        if rows.shape[1] == 1:
            costs = (w.square().sum(dim=3) / own[..., 0]).sum(dim=(0, 2))
        else:
            costs = (w * torch.linalg.solve_ex(own, w)[0]).sum(dim=(0, 2, 3))
        return costs

    def remove(self, unit: int) -> None:
        rows = self.rows[unit]
        across = self.p[:, :, rows]  # (blocks, features, k)
        inverse = torch.linalg.inv_ex(across[:, rows])[0]
        spread = across @ inverse
        self.w -= spread @ self.w[:, rows]
        self.p -= spread @ across.transpose(1, 2)


def reader(normal: Normal, w: torch.Tensor, rows: torch.Tensor, ridge: float, scale: torch.Tensor) -> Reader:
    """Start from the optimum over all features; `scale` (blocks, outputs) turns outputs into what is judged."""
    weight = penalty(normal, ridge)
    eye = torch.eye(normal.h.shape[1], dtype=normal.h.dtype, device=normal.h.device).expand_as(normal.h)
    p = spd_solve(normal.h + torch.diag_embed(weight), eye)
    best = p @ (normal.b + weight[:, :, None] * w)
    return Reader((p + p.transpose(1, 2)) / 2, best * scale[:, None, :], rows)


def order(readers: Sequence[Reader], units: int, count: int) -> list[tuple[int, float]]:
    """The first `count` units to go and what each costs when it is its turn."""
    device = readers[0].p.device
    alive = torch.arange(units, device=device)
    found = []
    for _ in range(count):
        costs = torch.stack([one.costs(alive) for one in readers]).sum(dim=0).clamp_min(0.0)
        place = int(costs.argmin())
        unit = int(alive[place])
        found.append((unit, float(costs[place])))
        alive = torch.cat([alive[:place], alive[place + 1 :]])
        for one in readers:
            one.remove(unit)
    return found
