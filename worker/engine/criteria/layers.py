"""What a criterion of single weights sees of one layer, and what it answers: a score for each weight.

A layer is a matrix: a row for each output, a column for each input (channels times taps).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from worker.engine.observe import Float


@dataclass(frozen=True, eq=False)
class LayerEvidence:
    """One layer. What a criterion does not ask for is None."""

    weights: Float  # (rows, columns)
    seed: tuple[int, ...]
    sensitivities: Float | None = None  # (rows, columns)

    def generator(self) -> np.random.Generator:
        """The same numbers at every call, others in every layer."""
        return np.random.default_rng(self.seed)


class WeightRanking(Protocol):
    """A criterion of single weights, with its parameters inside."""

    def weight_scores(self, layer: LayerEvidence) -> Float:
        """One number for each weight, (rows, columns): the lowest goes first."""
        ...

    def threshold(self) -> float | None:
        """Weights with a smaller score go, where the amount is the criterion's own threshold."""
        ...
