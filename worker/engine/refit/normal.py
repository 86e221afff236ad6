"""The normal equations of one reading: means of products of features and targets, over rows.

In: chunks of feature rows and of target rows. Out: `Normal`, and the weights that solve it. Products are taken in
single precision, a few thousand rows at a time, and summed in double. Refused: rows whose products are no numbers any
more (`data_not_finite`).
"""

from dataclasses import dataclass

import torch

from schemas.errors import EspalierError
from worker.engine.gram import let_go, zeros
from worker.engine.shelf import IN_MEMORY, Shelf

CHUNK_ROWS = 4096
OUTPUTS = 512  # whose errors are computed at once
MOST_LIFT = 1e6  # times its own diagonal: with a millionth of that, a matrix of real numbers is positive


@dataclass(frozen=True, eq=False)
class Normal:
    """Means over rows, of blocks side by side. The last feature is the constant 1 where `constant` says so."""

    h: torch.Tensor  # (blocks, features, features): E[f f']
    b: torch.Tensor  # (blocks, features, outputs): E[f t']
    t: torch.Tensor  # (blocks, outputs): E[t^2]
    constant: bool

    def error(self, w: torch.Tensor) -> torch.Tensor:
        """E[(t - W'f)^2] for each output: (blocks, outputs). Of features that have no weights nothing is asked."""
        left = torch.nonzero(w.abs().amax(dim=(0, 2))).ravel()
        h = self.h if len(left) == w.shape[1] else self.h[:, left][:, :, left]
        found = self.t.clone()
        for start in range(0, w.shape[2], OUTPUTS):
            some = slice(start, start + OUTPUTS)
            own = w[:, left, some]
            found[:, some] += (own * (h @ own - 2 * self.b[:, left, some])).sum(dim=1)
        return found.clamp_min(0.0)


class Sums:
    """Adds rows up."""

    def __init__(
        self, blocks: int, features: int, outputs: int, constant: bool, device: str, shelf: Shelf = IN_MEMORY
    ) -> None:
        width = features + constant
        self.constant, self.shelf = constant, shelf
        self.rows = 0
        self._means: Normal | None = None
        self.h = zeros(shelf, (blocks, width, width), device)
        self.b = torch.zeros(blocks, width, outputs, dtype=torch.float64, device=device)
        self.t = torch.zeros(blocks, outputs, dtype=torch.float64, device=device)

    @torch.inference_mode()
    def add(self, features: torch.Tensor, targets: torch.Tensor | None) -> None:
        """(blocks, rows, features) and, of rows that have targets, (blocks, rows, outputs)."""
        for start in range(0, features.shape[1], CHUNK_ROWS):
            f = features[:, start : start + CHUNK_ROWS]
            if self.constant:
                f = torch.cat([f, f.new_ones(*f.shape[:2], 1)], dim=2)
            turned = f.transpose(1, 2)
            self.h += turned @ f
            if targets is not None:
                t = targets[:, start : start + CHUNK_ROWS].to(f.dtype)
                self.b += turned @ t
                self.t += t.square().sum(dim=1, dtype=torch.float64)
        self.rows += features.shape[1]
        let_go(self.shelf, self.h)

    def means(self) -> Normal:
        """Nothing can be added any more: they are made where the sums stood."""
        if self._means is not None:
            return self._means
        sums = self.h, self.b, self.t
        if not all(bool(one.isfinite().all()) for one in sums):
            raise _overflow()
        h, b, t = (one.div_(max(self.rows, 1)) for one in sums)
        let_go(self.shelf, h)
        self._means = Normal(h, b, t, self.constant)
        return self._means


def penalty(normal: Normal, ridge: float) -> torch.Tensor:
    """ridge * the mean of the features' squares, nothing on the constant: (blocks, features)."""
    squares = normal.h.diagonal(dim1=1, dim2=2)
    own = squares[:, :-1] if normal.constant else squares
    level = ridge * own.mean(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    found = level.expand_as(squares).clone()
    if normal.constant:
        found[:, -1] = 0.0
    return found


def raised(h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The matrices with so much more on their diagonals, in place."""
    h.diagonal(dim1=1, dim2=2).add_(weight)
    return h


def solve(normal: Normal, w: torch.Tensor, kept: torch.Tensor, ridge: float) -> torch.Tensor:
    """The weights on the kept features that meet the targets best, drawn towards `w` by the ridge: (blocks, features,
    outputs), zero on the others."""
    weight = penalty(normal, ridge)[:, kept]
    h = raised(normal.h[:, kept][:, :, kept], weight)
    b = normal.b[:, kept] + weight[:, :, None] * w[:, kept]
    found = torch.zeros_like(w)
    found[:, kept] = spd_solve(h, b)
    return found


def spd_solve(h: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """h^-1 b of positive matrices."""
    return torch.cholesky_solve(b, _factor(h))


def spd_inverse(h: torch.Tensor) -> torch.Tensor:
    """h^-1 of positive matrices."""
    return torch.cholesky_inverse(_factor(h))


def _factor(h: torch.Tensor) -> torch.Tensor:
    """The lower factors of positive matrices; where one is not, numerically, its diagonal is raised until it is."""
    level = h.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(torch.finfo(h.dtype).tiny)
    lift, lifted = 0.0, h
    factor: torch.Tensor
    while lift <= MOST_LIFT:
        factor, info = torch.linalg.cholesky_ex(lifted)
        if not bool(info.any()):
            return factor
        lift = max(10 * lift, 1e-12)
        lifted = h.clone()
        lifted.diagonal(dim1=1, dim2=2).add_(lift * level[:, None])
    raise _overflow()


def _overflow() -> EspalierError:
    return EspalierError(
        "data_not_finite",
        "inside the model values grow so large that their products are no numbers any more",
        where="calibration",
        hint="Send samples as the model was trained on them; `preprocess` scales them.",
    )
