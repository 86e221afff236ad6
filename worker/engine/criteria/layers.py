"""What a criterion of single weights sees of one layer, and what it answers: a score for each weight, or new weights.

A layer is a matrix: a row for each output, a column for each input (channels times taps).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from worker.engine.inputs import LayerInputs
from worker.engine.observe import Float
from worker.engine.patterns import Taking


@dataclass(frozen=True, eq=False)
class LayerEvidence:
    """One layer. What a criterion does not ask for is None."""

    weights: Float  # (rows, columns)
    seed: tuple[int, ...]
    sensitivities: Float | None = None  # (rows, columns)
    inputs: LayerInputs | None = None

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


class WeightSolver(Protocol):
    """A criterion that chooses weights and changes the others in one go."""

    def solve(self, layer: LayerEvidence, taking: Taking) -> Float:
        """The new weights, (rows, columns), with zeros where weights went."""
        ...
