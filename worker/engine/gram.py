"""Sums of products of units' activations, batch by batch: `G += A^T A`.

In: activations (rows, units). Out: the Gram, in double precision. Memory is the square of the units, whatever the
number of rows. Of wide groups, and on a GPU, products are taken in single precision, of many rows at once and on one
side of the diagonal only, and summed in double; they are taken of what differs from a typical row, so that what all
rows have in common costs no digits.
"""

import torch

from worker.engine.shelf import IN_MEMORY, Shelf

WIDE = 512  # below this products in double precision cost little beside the model
ROWS = 4096  # of wide groups: fewer would spend the time on adding up, not on multiplying
BLOCK = 256


def zeros(shelf: Shelf, shape: tuple[int, ...], device: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Zeros to sum products up in: of all layers together they may be many times the model."""
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    blank = shelf.blank(shape, kind) if device == "cpu" else None
    return torch.zeros(shape, dtype=dtype, device=device) if blank is None else torch.from_numpy(blank)


def let_go(shelf: Shelf, sums: torch.Tensor) -> None:
    """Sums that lie on the shelf need not stay in memory until more is added or somebody looks."""
    if sums.device.type == "cpu":
        shelf.let_go(sums.numpy())


class Gram:
    """`sums` and `total()` are those of all rows added so far."""

    def __init__(self, units: int, device: str, shelf: Shelf = IN_MEMORY) -> None:
        self.units, self.rows = units, 0
        self.sums = torch.zeros(units, dtype=torch.float64, device=device)
        self._shelf = shelf
        self._products = zeros(shelf, (units, units), device)
        self._single = units >= WIDE or device != "cpu"
        self._typical: torch.Tensor | None = None
        self._waiting = torch.empty(0, units)
        self._wait = 0  # so many of its rows

    def add(self, acts: torch.Tensor) -> None:
        self.rows += len(acts)
        self.sums += acts.sum(dim=0, dtype=torch.float64)
        if not self._single:
            acts = acts.to(torch.float64)
            self._products.addmm_(acts.T, acts)
            let_go(self._shelf, self._products)
            return
        acts = acts if acts.is_floating_point() else acts.to(torch.float32)
        if self._typical is None:
            self._typical = acts.mean(dim=0)
            self._waiting = zeros(self._shelf, (ROWS, self.units), str(acts.device), acts.dtype)
        while len(acts):
            some, acts = acts[: ROWS - self._wait], acts[ROWS - self._wait :]
            torch.sub(some, self._typical, out=self._waiting[self._wait : self._wait + len(some)])
            self._wait += len(some)
            if self._wait == ROWS:
                self._multiply()
        let_go(self._shelf, self._waiting)

    def total(self) -> torch.Tensor:
        """The Gram. Nothing can be added any more: it is made where the products stood."""
        gram = self._products
        if self._typical is None:
            return gram
        self._multiply()
        self._waiting = self._waiting[:0]
        typical = self._typical.to(torch.float64)
        rest = self.sums - typical * (self.rows / 2)  # sum a a' = sum b b' + t r' + r t', where a = b + t
        for start in range(0, self.units, BLOCK):
            rows = slice(start, start + BLOCK)
            gram[rows, start:].addr_(typical[rows], rest[start:]).addr_(rest[rows], typical[start:])
            corner = gram[rows, rows]
            corner.copy_(corner.triu() + corner.triu(1).T)
            gram[start + BLOCK :, rows] = gram[rows, start + BLOCK :].T
        let_go(self._shelf, gram)
        return gram

    def _multiply(self) -> None:
        acts, self._wait = self._waiting[: self._wait], 0
        for start in range(0, self.units, BLOCK):
            self._products[start : start + BLOCK, start:] += acts[:, start : start + BLOCK].T @ acts[:, start:]
        let_go(self._shelf, self._products)
