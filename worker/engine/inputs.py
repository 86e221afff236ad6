"""What the layers read, for criteria of single weights: the size of each input over the data, and their Gram.

In: an executor, layers, batches of samples. Out: `LayerInputs` by weight. An input is a column of the layer's matrix:
in a convolution a channel at a tap (im2col). Of the places of a large map a seeded share is looked at. Layers whose
inputs cannot be read off are left out, and so are those whose Gram would be too large.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from zlib import crc32

import numpy as np
import torch

from worker.engine.axes import Layer
from worker.engine.execute import Executor, Held
from worker.engine.gram import let_go, zeros
from worker.engine.graph import Array
from worker.engine.observe import Float
from worker.engine.ops import RULES
from worker.engine.ops.linear import Linear
from worker.engine.shelf import IN_MEMORY, Shelf
from worker.engine.ties import Seen

ROWS = 1 << 15  # of one batch: more places than this are sampled
MOST_COLUMNS = 8192  # a Gram of so many takes half a gigabyte
MATRICES = ("Conv", "Gemm", "MatMul")  # a row of the weight is an output, a column an input of `Linear.gather`


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """`blocks` are the groups of a convolution, each with its own inputs. Sums run over `rows`: samples and places."""

    squares: Float  # (blocks, columns)
    gram: Float | None  # (blocks, columns, columns)
    rows: int

    def norms(self, rows: int) -> Float:
        """The root mean square of what each weight is multiplied with: (rows of the layer's matrix, columns)."""
        blocks = len(self.squares)
        norms: Float = np.sqrt(self.squares / max(self.rows, 1)).repeat(rows // blocks, axis=0)
        return norms


@dataclass(eq=False)
class _Sums:
    linear: Linear
    squares: torch.Tensor
    gram: torch.Tensor | None
    shelf: Shelf
    rows: int = 0

    def add(self, features: torch.Tensor) -> None:
        """(blocks, rows, columns)"""
        wide = features.to(torch.float64)
        self.squares += (wide**2).sum(dim=1)
        if self.gram is not None:
            self.gram.baddbmm_(wide.transpose(1, 2), wide)
            let_go(self.shelf, self.gram)
        self.rows += wide.shape[1]


def layer_inputs(
    executor: Executor,
    layers: Iterable[Layer],
    seen: Seen,
    batches: Iterable[Mapping[str, Array]],
    *,
    with_gram: bool,
    seed: int,
    shelf: Shelf = IN_MEMORY,
) -> dict[str, LayerInputs]:
    """The sums of each layer, in one pass over the batches."""
    sums: dict[str, _Sums] = {}
    read: dict[str, list[Layer]] = {}
    for layer in layers:
        linear = linear_of(layer, seen)
        if linear is None or (with_gram and linear.features > MOST_COLUMNS):
            continue
        shape = linear.blocks, linear.features
        own = torch.zeros(shape, dtype=torch.float64, device=executor.device)
        gram = zeros(shelf, (*shape, shape[1]), executor.device) if with_gram else None
        sums.setdefault(layer.weight, _Sums(linear, own, gram, shelf))
        read.setdefault(layer.op.inputs[0], []).append(layer)
    rng = np.random.default_rng([seed, crc32(b"inputs")])

    def visit(name: str, value: Held) -> None:
        for layer in read.get(name, ()):
            assert isinstance(value, torch.Tensor)
            places, each = linear_places(sums[layer.weight].linear, layer, seen, len(value))
            some = None
            if places * each > ROWS:
                some = torch.from_numpy(rng.permutation(places)[: max(ROWS // each, 1)])
            sums[layer.weight].add(sums[layer.weight].linear.gather(value, some))

    for feeds in batches:
        executor.run(feeds, visit)
    return {name: _found(one) for name, one in sums.items()}


def linear_of(layer: Layer, seen: Seen) -> Linear | None:
    """The layer as a matrix times its inputs, where it is one."""
    op = layer.op
    if op.key not in MATRICES or op.inputs[1] not in seen.shapes or not op.inputs[0]:
        return None
    turned = op.integer("transA", 0) or (op.key == "MatMul" and len(seen.shapes[op.inputs[1]]) > len("io"))
    linear = None if turned else RULES[op.key].linear(op, seen.shapes, 1)
    whole = linear is not None and linear.blocks * linear.outputs * linear.features == prod(seen.shapes[op.inputs[1]])
    return linear if whole else None


def linear_places(linear: Linear, layer: Layer, seen: Seen, samples: int) -> tuple[int, int]:
    """How many places the layer's output has, and how many rows each gives, for so many samples."""
    shape = seen.shapes[layer.op.outputs[0]]
    first = seen.shapes[layer.op.inputs[0]][0]
    return linear.places((shape[0] * samples // max(first, 1), *shape[1:]))


def _found(sums: _Sums) -> LayerInputs:
    gram = None if sums.gram is None else sums.gram.cpu().numpy()
    return LayerInputs(sums.squares.cpu().numpy(), gram, sums.rows)
