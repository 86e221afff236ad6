"""Targets behind a ReLU: what the teacher cuts off at zero has only to stay below it.

In: rows of features, of targets and of floors (the value at which the ReLU starts to cut), and weights. Out: the error
that passes the ReLU, and targets that a plain least squares can be fitted to. For t above its floor the squared error
counts as it is; for t below, only what exceeds the floor. Replacing each target that is met anyway by what is there
now turns that into least squares again, with the same Gram; each such step lowers the error (majorise and minimise;
Zhang and others 2016 meet the same loss differently).
"""

from dataclasses import dataclass, field

import torch

from worker.engine.refit.normal import CHUNK_ROWS, Normal


@dataclass(eq=False)
class Rows:
    """Chunks side by side: features (blocks, rows, features), targets and floors (blocks, rows, outputs). `sign` is 1
    where larger means further above the floor, for each output (blocks, 1, outputs)."""

    sign: torch.Tensor
    constant: bool
    chunks: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def add(self, features: torch.Tensor, targets: torch.Tensor, floors: torch.Tensor) -> None:
        if self.constant:
            features = torch.cat([features, features.new_ones(*features.shape[:2], 1)], dim=2)
        for start in range(0, features.shape[1], CHUNK_ROWS):
            end = start + CHUNK_ROWS
            self.chunks.append((features[:, start:end], targets[:, start:end], floors[:, start:end]))

    def error(self, w: torch.Tensor) -> torch.Tensor:
        """The mean square of what passes the ReLU too much or too little, for each output: (blocks, outputs)."""
        total = torch.zeros(w.shape[0], w.shape[2], dtype=torch.float64, device=w.device)
        for features, targets, floors in self.chunks:
            found = features @ w.to(features.dtype)
            above = self.sign * (targets - floors) > 0
            wrong = torch.where(above, found - targets, (self.sign * (found - floors)).clamp_min(0.0))
            total += wrong.square_().sum(dim=1)  # in single precision of one chunk, in double of all
        return total / max(sum(features.shape[1] for features, _, _ in self.chunks), 1)

    def targets(self, w: torch.Tensor | None = None) -> torch.Tensor:
        """The targets of all rows; below the floor what these weights already give, floor at most."""
        found = []
        for features, targets, floors in self.chunks:
            found.append(targets if w is None else self._wanted(features @ w.to(features.dtype), targets, floors))
        return torch.cat(found, dim=1)

    def _wanted(self, found: torch.Tensor, targets: torch.Tensor, floors: torch.Tensor) -> torch.Tensor:
        above = self.sign * (targets - floors) > 0
        below = floors + self.sign * (self.sign * (found - floors)).clamp_max(0.0)
        return torch.where(above, targets, below)

    def retargeted(self, normal: Normal, w: torch.Tensor) -> Normal:
        """The normal equations whose targets below the floor are what these weights already give, floor at most."""
        b = torch.zeros_like(normal.b)
        t = torch.zeros_like(normal.t)
        for features, targets, floors in self.chunks:
            wanted = self._wanted(features @ w.to(features.dtype), targets, floors)
            b += features.transpose(1, 2) @ wanted
            t += wanted.square_().sum(dim=1)
        n = max(sum(features.shape[1] for features, _, _ in self.chunks), 1)
        return Normal(normal.h, b / n, t / n, normal.constant)
