"""An operator as a linear map, y = f W + b: what least squares over its weights needs to know.

In: an operator with a constant weight and the shapes seen in one execution. Out: `Linear`: how its features f are read
off its input and its results off its output, row by row, and how its weight is written as a matrix. A grouped
convolution is several maps side by side (`blocks`), each with features and results of its own. Products of a constant
and a computed operand, whatever they are called, are one function: `contraction`. Left out: what is no such map.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from worker.engine.ties import Points

Spots = torch.Tensor | None  # which of the places in an output become rows; None for all
Shapes = Mapping[str, tuple[int, ...]]
Labels = Sequence[str]  # a letter for each axis; "" for one of size one that means nothing


@dataclass(frozen=True, eq=False)
class Linear:
    """`gather` and `results` give (blocks, rows, features) and (blocks, rows, outputs) for the same rows in the same
    order, `matrix` (blocks, features, outputs), `array` the weight again. `owned` tells by contracted axis of the
    weight which features of each block an index owns. `spread` is the shape in which a number for each output, blocks
    first, stands beside what the operator gives; `places` says, from the input's shape, how many places the output
    has, and how many rows each gives."""

    weight: str
    bias: str  # "" where it has none
    blocks: int
    features: int
    outputs: int
    taps: int
    spread: tuple[int, ...]
    owned: Mapping[int, Points]  # (size of the axis, features of each index)
    places: Callable[[tuple[int, ...]], tuple[int, int]]
    gather: Callable[[torch.Tensor, Spots], torch.Tensor]
    results: Callable[[torch.Tensor, Spots], torch.Tensor]
    matrix: Callable[[torch.Tensor], torch.Tensor]
    array: Callable[[torch.Tensor], torch.Tensor]
    bias_scale: float = 1.0  # y = f W + bias_scale * bias
    bias_shape: tuple[int, ...] = ()  # of the bias beside what the operator gives
    slot: int = 0  # of the input that is read

    @property
    def count(self) -> int:
        """Outputs of all blocks."""
        return self.blocks * self.outputs

    def rows_of(self, axis: int, index: Points) -> Points:
        """The features of units whose indices on an axis of the weight are given: (units, features each)."""
        rows: Points = np.unique(self.owned[axis][index].reshape(len(index), -1), axis=1)
        return rows


def channels_spread(rank: int, count: int) -> tuple[int, ...]:
    """Outputs on the axis of channels."""
    return (1, count, *(1,) * (rank - 2))


@dataclass(frozen=True, eq=False)
class _Axes:
    """Where the axes of one operand go: `kinds` are the labels of blocks, of rows and of the rest, each in order."""

    labels: tuple[str, ...]
    kinds: tuple[tuple[str, ...], ...]

    def turned(self, value: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
        """The operand as (*sizes), one of which may be -1 for the rows."""
        named = [size for size, label in zip(value.shape, self.labels, strict=True) if label]
        order = [one for one in self.labels if one]
        flat = value.reshape(named).permute([order.index(label) for kind in self.kinds for label in kind])
        return flat.reshape(sizes)


def contraction(
    names: tuple[str, str],
    shapes: Shapes,
    output: str,
    labels: tuple[Labels, Labels, Labels],
    slot: int,
) -> Linear | None:
    """A computed operand against a constant one: `names` are those of both, `labels` those of the computed one, of
    the constant one and of the output. What the constant alone brings in are outputs, what the output has not are
    features, what stands in all three are blocks. None where a label means anything else."""
    x, w = names
    of_x, of_w, of_y = (tuple(one) for one in labels)
    found = _sorted(of_x, of_w, of_y)
    if found is None:
        return None
    blocks, rows, features, outputs = found
    sizes = {
        label: size
        for part, name in ((of_x, x), (of_w, w), (of_y, output))
        for label, size in zip(part, shapes[name], strict=True)
        if label
    }
    b, f, o = (prod(sizes[label] for label in some) for some in (blocks, features, outputs))
    read, given = _Axes(of_x, (blocks, rows, features)), _Axes(of_y, (blocks, rows, outputs))
    weight = _Axes(of_w, (blocks, features, outputs))
    layout = np.arange(f).reshape([sizes[label] for label in features])
    owned = {
        of_w.index(label): np.moveaxis(layout, place, 0).reshape(sizes[label], -1)
        for place, label in enumerate(features)
    }

    def gather(value: torch.Tensor, spots: Spots) -> torch.Tensor:
        flat = read.turned(value, (b, -1, f))
        return flat if spots is None else flat[:, spots.to(flat.device)]

    def results(value: torch.Tensor, spots: Spots) -> torch.Tensor:
        flat = given.turned(value, (b, -1, o))
        return flat if spots is None else flat[:, spots.to(flat.device)]

    def array(matrix: torch.Tensor) -> torch.Tensor:
        apart = matrix.reshape([sizes[label] for kind in weight.kinds for label in kind])
        order = [label for kind in weight.kinds for label in kind]
        back = apart.permute([order.index(label) for label in of_w if label])
        return back.reshape(shapes[w])

    return Linear(
        weight=w,
        bias="",
        blocks=b,
        features=f,
        outputs=o,
        taps=1,
        spread=tuple(sizes[label] if label in (*blocks, *outputs) else 1 for label in of_y),
        owned=owned,
        places=lambda shape: (prod(shape) // max(b * f, 1), 1),
        gather=gather,
        results=results,
        matrix=lambda held: weight.turned(held, (b, f, o)),
        array=array,
        slot=slot,
    )


def _sorted(x: tuple[str, ...], w: tuple[str, ...], y: tuple[str, ...]) -> tuple[tuple[str, ...], ...] | None:
    """The labels of blocks, rows, features and outputs."""
    named = [[label for label in part if label] for part in (x, w, y)]
    if any(len(set(part)) < len(part) for part in named) or "" in y or not set(y) <= {*x, *w}:
        return None
    blocks = tuple(label for label in y if label in x and label in w)
    rows = tuple(label for label in y if label in x and label not in w)
    outputs = tuple(label for label in y if label in w and label not in x)
    features = tuple(label for label in w if label and label in x and label not in y)
    summed = [label for label in (*x, *w) if label and label not in y and label not in features]
    # A number for each output is to lie beside the result as it is: blocks before outputs.
    in_order = [label for label in y if label in (*blocks, *outputs)] == [*blocks, *outputs]
    return (blocks, rows, features, outputs) if features and not summed and in_order else None
