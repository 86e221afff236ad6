"""Steps for weight matrices in which every direction counts the same, however little of the slope lies along it.

In: weights, as which stacks of matrices they are to be seen, and how long their steps are. Out: `Muon`, which moves
them along their slopes' running means, each turned into the nearest matrix without long and short axes (Jordan et al.,
2024). Which weights are worth that: `worthwhile`. Left out: vectors, depthwise convolutions among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt

import torch

from worker.engine.cost import macs_by_op
from worker.engine.graph import Graph, Op
from worker.engine.ops.rule import ShapeOf

MEMORY = 0.95
ROUNDS = 5
TURNING = 3.4445, -4.7750, 2.0315  # of the method's authors: they carry small axes up fastest
MULTIPLES = 16, 64  # of rows and columns: matrices that are nearly of a size are turned together, zeros around them
PASSES = 3  # a step's work: the answer, and slopes for what an operator reads and for its weight
TINY = 1e-12

Stack = tuple[int, int, int]  # matrices, rows, columns
GROUPED = ("Conv", "ConvTranspose")
STACKED = ("Gemm", "MatMul", "LSTM", "GRU", "RNN")


def worthwhile(graph: Graph, weights: Mapping[str, torch.Tensor], shape: ShapeOf, times: float) -> dict[str, Stack]:
    """The weights whose step costs no more to turn than to find; that takes the batch that has these shapes so many
    times."""
    work, found = macs_by_op(graph, shape), {}
    for op in graph.ops:
        for slot in range(len(op.inputs)):
            name = op.input(slot)
            stack = _stack(op, tuple(weights[name].shape)) if name in weights and name not in found else None
            if stack is not None and _turning(stack) <= PASSES * times * work.get(op.index, 0):
                found[name] = stack
    return found


def _stack(op: Op, shape: tuple[int, ...]) -> Stack | None:
    """As the matrices that it is; nothing where these are vectors."""
    if op.key in GROUPED and len(shape) > 1:
        groups = op.integer("group", 1)
        stack = groups, shape[0] // groups, prod(shape[1:])
    elif op.key in STACKED and len(shape) > 1:
        stack = prod(shape[:-2]), shape[-2], shape[-1]
    else:
        return None
    return stack if min(stack[1:]) > 1 else None


def _turning(stack: Stack) -> int:
    """Multiply-accumulates."""
    few, many = sorted(stack[1:])
    return ROUNDS * stack[0] * few * few * (2 * many + few)


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a weight's matrices lie among those of about their size."""

    weight: torch.Tensor
    stack: Stack
    first: int
    length: float

    def of(self, all_of_a_size: torch.Tensor) -> torch.Tensor:
        few, many = sorted(self.stack[1:])
        return all_of_a_size[self.first : self.first + self.stack[0], :few, :many]

    def lying(self, value: torch.Tensor) -> torch.Tensor:
        """With at least as many columns as rows."""
        matrices = value.reshape(self.stack)
        return matrices.mT if self.stack[1] > self.stack[2] else matrices

    def move(self, turned: torch.Tensor, rate: float) -> None:
        lying = self.of(turned)
        as_it_stands = lying.mT if self.stack[1] > self.stack[2] else lying
        longest = sqrt(max(self.stack[1:]))  # so the numbers of a step are of that size, not its axes
        self.weight.sub_(as_it_stands.reshape(self.weight.shape), alpha=rate * self.length * longest)


class Muon:
    def __init__(self, weights: Sequence[tuple[torch.Tensor, Stack, float]]) -> None:
        """Each weight with its matrices, and the root mean square of a step at a rate of one."""
        together: dict[tuple[int, int], list[_Place]] = {}
        for weight, stack, length in weights:
            few, many = sorted(stack[1:])
            alike = together.setdefault((_up(few, MULTIPLES[0]), _up(many, MULTIPLES[1])), [])
            first = alike[-1].first + alike[-1].stack[0] if alike else 0
            alike.append(_Place(weight, stack, first, length))
        self.sizes = [(_blank(size, places), places) for size, places in together.items()]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Along the slopes that the weights have."""
        for means, places in self.sizes:
            ahead = torch.zeros_like(means)
            for place in places:
                if place.weight.grad is not None:
                    slopes, mean = place.lying(place.weight.grad), place.of(means)
                    mean.lerp_(slopes, 1 - MEMORY)
                    place.of(ahead).copy_(mean.lerp(slopes, 1 - MEMORY))  # Nesterov: a mean alone comes late
            turned = _turned(ahead)
            for place in places:
                place.move(turned, rate)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _blank(size: tuple[int, int], places: list[_Place]) -> torch.Tensor:
    last, weight = places[-1], places[-1].weight
    return torch.zeros(last.first + last.stack[0], *size, device=weight.device)


def _turned(means: torch.Tensor) -> torch.Tensor:
    """Of each matrix U S V: nearly U V. A polynomial of odd powers moves all singular values towards one."""
    once, thrice, five_times = TURNING
    given: torch.Tensor = means / (means.norm(dim=(1, 2), keepdim=True) + TINY)
    for _ in range(ROUNDS):
        squares = given @ given.mT
        given = torch.baddbmm(
            given, torch.baddbmm(squares, squares, squares, beta=thrice, alpha=five_times), given, beta=once
        )
    return given
