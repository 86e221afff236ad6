"""An operator as a linear map, y = f W + b: what least squares over its weights needs to know.

In: an operator with a constant weight and the shapes seen in one execution. Out: `Linear`: how its features f are read
off its input and its results off its output, row by row, and how its weight is written as a matrix. A grouped
convolution is several maps side by side (`blocks`), each with features and results of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from worker.engine.ties import Points

Spots = torch.Tensor | None  # which of the places in an output become rows; None for all
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Linear:
    """`gather` and `results` give (blocks, rows, features) and (blocks, rows, outputs) for the same rows in the same
    order, `matrix` (blocks, features, outputs), `array` the weight again. Index i of the contracted axis of the weight
    owns the features i * taps .. i * taps + taps - 1 of each block. `axis` is where the outputs lie, counted from the
    left; `places` says, from the input's shape, how many places the output has, and how many rows each gives."""

    weight: str
    bias: str  # "" where it has none
    blocks: int
    features: int
    outputs: int
    taps: int
    axis: int
    places: Callable[[tuple[int, ...]], tuple[int, int]]
    gather: Callable[[torch.Tensor, Spots], torch.Tensor]
    results: Callable[[torch.Tensor, Spots], torch.Tensor]
    matrix: Callable[[torch.Tensor], torch.Tensor]
    array: Callable[[torch.Tensor], torch.Tensor]
    bias_scale: float = 1.0  # y = f W + bias_scale * bias

    def rows_of(self, index: Points) -> Points:
        """The features of units whose indices on the weight's contracted axis are given: (units, features each)."""
        own = np.unique(index % (self.features // self.taps), axis=1)
        rows: Points = (own[:, :, None] * self.taps + np.arange(self.taps)).reshape(len(own), -1)
        return rows
