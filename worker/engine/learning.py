"""What learns in a model, and its steps.

In: a graph; slopes of its weights. Out: `Student`, whose weights move and of which the best state is remembered, and
`Steps`, which move them. Zeros of a sparse weight may stay zero. Refused: a model in which nothing learns
(`gradient_unavailable`).
"""

from collections.abc import Mapping

import numpy as np
import torch

from schemas.errors import EspalierError
from worker.engine.execute import Executor, to_numpy
from worker.engine.graph import Array, Graph
from worker.engine.muon import Muon, Stack
from worker.engine.shelf import Shelf

SMALLEST = 0.01  # of a weight's sizes
OF_MATRIX = 0.4  # of the rate: steps in all directions at once go further

# Where operators read what may learn. What a normalisation has measured (mean, variance) stays, and so do limits.
NORMALISED = (1, 2)
SLOTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "Add": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    **dict.fromkeys(
        (
            "BatchNormalization",
            "InstanceNormalization",
            "LayerNormalization",
            "GroupNormalization",
            "RMSNormalization",
        ),
        NORMALISED,
    ),
}


def learnable(graph: Graph) -> tuple[str, ...]:
    """Weights, biases, scales and shifts, in single precision and of more than one number."""
    found = []
    for op in graph.ops:
        for slot in SLOTS.get(op.key, ()):
            array = graph.constants.get(op.input(slot))
            if array is not None and array.dtype == np.float32 and array.size > 1:
                found.append(op.input(slot))
    return tuple(dict.fromkeys(found))


class Student:
    """An executor whose weights learn. `best` are those that were remembered last, on the shelf."""

    def __init__(self, graph: Graph, device: str, keep_zeros: bool, shelf: Shelf) -> None:
        self.shelf = shelf
        self.best: dict[str, Array] = {}
        self.executor = Executor(graph, device)
        self.weights: dict[str, torch.Tensor] = {}
        self.masks: dict[str, torch.Tensor] = {}
        for name in learnable(graph):
            weight = self.executor.fixed[name]
            assert isinstance(weight, torch.Tensor)
            in_order = weight.clone(memory_format=torch.contiguous_format)  # as slopes are; a cut leaves other orders
            self.weights[name] = in_order.requires_grad_()
            if keep_zeros:
                self.masks[name] = (weight != 0).to(weight.dtype)
        if not self.weights:
            raise nothing_learns()
        self.executor.fixed |= self.weights

    def lend(self, executor: Executor) -> dict[str, torch.Tensor]:
        """The weights as they are now, in the precision that it computes in; slopes of these are its own."""
        lent = {name: weight.detach().to(executor.floats).requires_grad_() for name, weight in self.weights.items()}
        executor.fixed |= lent
        return lent

    def settle(self) -> None:
        """After a step: slopes are let go of (while the teacher answers the next samples nobody needs them), and what
        was zero is zero again."""
        for name, weight in self.weights.items():
            weight.grad = None
            if name in self.masks:
                weight.detach().mul_(self.masks[name])

    def remember(self) -> None:
        for name, weight in self.weights.items():
            array = to_numpy(weight)
            if name not in self.best:
                blank = self.shelf.blank(array.shape, array.dtype)
                self.best[name] = np.empty_like(array) if blank is None else blank
            np.copyto(self.best[name], array)
            self.shelf.let_go(self.best[name])


class Steps:
    """Muon's for the matrices that are worth it, Adam's for the rest. A rate is a share of each weight's own size:
    steps of one length tear small weights to pieces."""

    def __init__(self, weights: Mapping[str, torch.Tensor], matrices: Mapping[str, Stack]) -> None:
        sizes = {name: _size(weight) for name, weight in weights.items()}
        self.muon = Muon([(weights[name], stack, OF_MATRIX * sizes[name]) for name, stack in matrices.items()])
        rest = [{"params": [weights[name]], "size": sizes[name]} for name in weights if name not in matrices]
        self.adam = torch.optim.Adam(rest, fused=True) if rest else None

    def take(self, rate: float) -> None:
        self.muon.step(rate)
        if self.adam is not None:
            for group in self.adam.param_groups:
                group["lr"] = rate * group["size"]
            self.adam.step()


def _size(weight: torch.Tensor) -> float:
    """Root mean square; what is nearly zero, such as a bias, may still move."""
    return max(float(weight.detach().square().mean().sqrt()), SMALLEST)


def nothing_learns() -> EspalierError:
    return EspalierError(
        "gradient_unavailable",
        f"no weight in single precision that {', '.join(sorted(SLOTS))} read reaches the outputs",
        where="/distill",
        hint="Leave `distill` out, or send the model as it was before it was rounded.",
    )
