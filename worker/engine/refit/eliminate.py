"""Group Optimal Brain Surgeon: units in the order in which they are missed least, once the others have taken over.

In: for every reading of a group the inverse P of its Gram and the products Q = W W' of the weights W = P B. Out: the
order, and what each step costs. Removing unit u, whose rows are S, costs tr(W_S' (P_SS)^-1 W_S) = tr((P_SS)^-1 Q_SS) in
each reading; then, in closed form (Hassibi and Stork 1993, for groups of weights), with V = P_:S (P_SS)^-1,

    W <- W - V W_S      P <- P - V P_S:      Q <- Q - V T' - T V'      where T = Q_:S - V Q_SS / 2

so that of the weights Q alone is needed, however many outputs they have. The updates of some units wait, and are done
together, on what is left: until then a row of P or Q is brought up to date when it is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.engine.refit.normal import Normal, penalty, raised, spd_inverse, spd_solve

ORDER_RIDGE = 1e-3
WAITING = 64  # rows whose updates wait: fewer would walk through P too often, more make each row dear
OUTPUTS = 4096  # whose weights are multiplied at once


@dataclass(eq=False)
class Reader:
    """One reading of the group that is being taken apart. `rows`: (units, features of each)."""

    p: torch.Tensor  # (blocks, features, features)
    q: torch.Tensor  # (blocks, features, features), of weights scaled so that squares are shares of what is judged
    rows: torch.Tensor

    def __post_init__(self) -> None:
        self._gone = torch.zeros(self.p.shape[1], dtype=torch.bool, device=self.p.device)
        self._start()

    def _start(self) -> None:
        """Nothing waits. What costs are made of is kept for each unit: (blocks, units, k, k)."""
        blocks, features, _ = self.p.shape
        first, second = self.rows[:, :, None], self.rows[:, None, :]
        self._own_p, self._own_q = self.p[:, first, second], self.q[:, first, second]
        room = max(WAITING, self.rows.shape[1])
        self._across, self._spread, self._turned = self.p.new_empty(3, blocks, room, features)
        self._used = 0

    def costs(self, units: torch.Tensor) -> torch.Tensor:
        """What removing each of these units would cost: (units,)."""
        if self.rows.shape[1] == 1:
            return (self._own_q[:, units] / self._own_p[:, units]).sum(dim=(0, 2, 3))
        shares: torch.Tensor
        shares = torch.linalg.solve_ex(self._own_p[:, units], self._own_q[:, units])[0]
        return shares.diagonal(dim1=2, dim2=3).sum(dim=(0, 2))

    def remove(self, unit: int) -> None:
        rows = self.rows[unit]
        across, products = self._up_to_date(rows)  # (blocks, k, features)
        inverse = torch.linalg.inv_ex(across[:, :, rows])[0]
        spread = inverse @ across
        turned = products - products[:, :, rows] @ spread / 2
        own_spread, own_across, own_turned = (
            one[:, :, self.rows].permute(0, 2, 3, 1) for one in (spread, across, turned)
        )
        self._own_p -= own_spread @ own_across.transpose(2, 3)
        self._own_q -= own_spread @ own_turned.transpose(2, 3) + own_turned @ own_spread.transpose(2, 3)
        self._gone[rows] = True
        place = slice(self._used, self._used + len(rows))
        self._across[:, place], self._spread[:, place], self._turned[:, place] = across, spread, turned
        self._used += len(rows)
        if self._used + len(rows) > self._across.shape[1]:
            self.settle()

    def settle(self) -> None:
        """Do what waits, on the rows that are left."""
        left = torch.nonzero(~self._gone).ravel()
        across, spread, turned = (one[:, : self._used, left] for one in (self._across, self._spread, self._turned))
        del self._across, self._spread, self._turned  # as large as many rows, and made anew
        self.p = self.p[:, left][:, :, left].baddbmm_(spread.transpose(1, 2), across, alpha=-1)
        self.q = self.q[:, left][:, :, left].baddbmm_(spread.transpose(1, 2), turned, alpha=-1)
        self.q.baddbmm_(turned.transpose(1, 2), spread, alpha=-1)
        place = torch.zeros_like(self._gone, dtype=torch.int64)
        place[left] = torch.arange(len(left), device=left.device)
        self.rows = place[self.rows]  # a unit that is gone shares the first row: nobody asks what it costs
        self._gone = self._gone[left]
        self._start()

    def _up_to_date(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """These rows of P and Q."""
        across, spread, turned = (one[:, : self._used] for one in (self._across, self._spread, self._turned))
        own_spread, own_turned = spread[:, :, rows].transpose(1, 2), turned[:, :, rows].transpose(1, 2)
        return self.p[:, rows] - own_spread @ across, self.q[:, rows] - own_spread @ turned - own_turned @ spread


def reader(
    normal: Normal, w: torch.Tensor, rows: torch.Tensor, ridge: float, scale: torch.Tensor, *, taught: bool = False
) -> Reader:
    """Start from the optimum over all features; `scale` (blocks, outputs) turns outputs into what is judged. `taught`:
    what the targets are is what w gives, so that w is the optimum."""
    weight = penalty(normal, ridge)
    h = raised(normal.h.clone(), weight)
    best = w if taught else spd_solve(h, normal.b + weight[:, :, None] * w)
    q = torch.zeros_like(h)
    for start in range(0, w.shape[2], OUTPUTS):
        own = best[:, :, start : start + OUTPUTS].to(h.dtype) * scale[:, None, start : start + OUTPUTS]
        q.baddbmm_(own, own.transpose(1, 2))
    return Reader(spd_inverse(h), q, rows)


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
