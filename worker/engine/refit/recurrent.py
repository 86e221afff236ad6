"""Recurrent layers as readings: their gates are plain products of what comes in and of the state before.

In: a graph, one execution's shapes and the groups; then teacher and student at the layer. Out: `Recurrence`s, what they
read of which group, their features and targets, and new weights. Left out: layers that run outside torch, and weights
that are read elsewhere or are no numbers.

The teacher's gates before they bend are the targets. The student's features are its own inputs and, first, the
teacher's states, then its own, which the weights of the last round lead to; what counts is the layer's output when it
runs on its own, on samples that it was not fitted on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from worker.engine import cost
from worker.engine.axes import Group
from worker.engine.execute import Held
from worker.engine.graph import Array, Graph, Op
from worker.engine.ops.recurrent import Product, by_step, products, states
from worker.engine.ops.rule import Tensors
from worker.engine.refit.normal import Sums
from worker.engine.ties import Points, Seen

WEIGHTS = (1, 2, 3)  # the input slots of W, R and B
X, R, B = 0, 2, 3


@dataclass(frozen=True, eq=False)
class Recurrence:
    """`units` by group: which features each owns, inputs first, then states."""

    op: Op
    products: tuple[Product, ...]
    inputs: int
    hidden: int
    units: Mapping[str, Points]
    biased: bool

    @property
    def source(self) -> str:
        return self.op.inputs[X]

    @property
    def slots(self) -> tuple[int, ...]:
        """The input slots at which it reads units."""
        return X, R

    @property
    def features(self) -> int:
        return self.inputs + self.hidden

    @property
    def taught(self) -> frozenset[str]:
        """The values of the teacher that a fit looks at."""
        return frozenset(name for slot, name in enumerate(self.op.inputs) if name and slot not in WEIGHTS)

    def weights(self, constants: Mapping[str, Array]) -> "Weights":
        w, r = (torch.from_numpy(constants[self.op.inputs[slot]].astype(np.float32)) for slot in WEIGHTS[:2])
        if not self.biased:
            return Weights(w, r, None)
        return Weights(w, r, torch.from_numpy(constants[self.op.inputs[B]].astype(np.float32)))


@dataclass(frozen=True, eq=False)
class Weights:
    """W (directions, gates * hidden, inputs), R (..., hidden) and B (directions, 2 * gates * hidden)."""

    w: torch.Tensor
    r: torch.Tensor
    b: torch.Tensor | None

    def to(self, device: str) -> "Weights":
        return Weights(self.w.to(device), self.r.to(device), None if self.b is None else self.b.to(device))

    def without(self, gone: torch.Tensor) -> "Weights":
        """Nothing is read of these features any more."""
        w, r = self.w.clone(), self.r.clone()
        inputs = w.shape[2]
        w[:, :, gone[gone < inputs]] = 0.0
        r[:, :, gone[gone >= inputs] - inputs] = 0.0
        return Weights(w, r, self.b)

    def matrix(self, direction: int, one: Product) -> torch.Tensor:
        """(features, outputs) of one product, inputs first, then states."""
        rows = slice(one.start, one.stop)
        parts = [self.w[direction, rows]] * one.of_input + [self.r[direction, rows]] * one.of_state
        return torch.cat(parts, dim=1).T

    def into(self, tensors: Tensors) -> Tensors:
        """What the operator reads, with these weights."""
        return (tensors[X], self.w, self.r, self.b, *tensors[B + 1 :])


def recurrence_of(graph: Graph, seen: Seen, op: Op, groups: Iterable[Group]) -> Recurrence | str:
    """A recurrent layer as a reading, or why it is none."""
    own = [name for slot in WEIGHTS if (name := op.input(slot))]
    if any(name not in graph.constants or not cost.is_real(graph.constants[name]) for name in own):
        return "its weights are computed, or stored as integers"
    if any(len(graph.readers[name]) > 1 or op.inputs.count(name) > 1 for name in own):
        return "its weights are read elsewhere too"
    hidden, inputs = seen.shapes[op.inputs[R]][2], seen.shapes[op.inputs[X]][2]
    found = products(op, hidden)
    if not found:
        return "it has lengths, limits or activations that run outside torch"
    units: dict[str, Points] = {}
    for group in groups:
        if any(consume.op is op for consume in group.consumers):
            parts = [
                group.sites[name, 2] + at for name, at in ((own[0], 0), (own[1], inputs)) if (name, 2) in group.sites
            ]
            if parts:
                units[group.name] = np.hstack(parts)
    return Recurrence(op, found, inputs, hidden, units, bool(op.input(B)))


def tensors_of(reading: Recurrence, value_of: Mapping[str, Held]) -> Tensors:
    """What the operator reads, apart from its weights."""
    found: list[torch.Tensor | None] = []
    for slot, name in enumerate((*reading.op.inputs, "", "", "", "", "")[:8]):
        value = value_of[name] if name and slot not in WEIGHTS else None
        assert value is None or isinstance(value, torch.Tensor), f"{name} holds no numbers"
        found.append(value)
    return tuple(found)


def steps(reading: Recurrence, tensors: Tensors, weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    """The states before and behind each step, with these weights."""
    return states(reading.op, weights.into(tensors))


def features(
    reading: Recurrence, tensors: Tensors, weights: Weights, before: torch.Tensor, one: Product, direction: int
) -> torch.Tensor:
    """What one product reads: (steps * samples, features of it)."""
    x, h = tensors[X], before[direction]
    assert x is not None
    x = by_step(reading.op, x)
    if one.reset:
        rows = slice(reading.hidden, 2 * reading.hidden)
        gate = x @ weights.w[direction, rows].T + h @ weights.r[direction, rows].T
        if weights.b is not None:
            gate = gate + weights.b[direction].reshape(2, -1)[:, rows].sum(dim=0)
        h = torch.sigmoid(gate) * h
    parts = [x] * one.of_input + [h] * one.of_state
    return torch.cat(parts, dim=2).flatten(0, 1)


def kept_of(reading: Recurrence, one: Product, gone: torch.Tensor) -> torch.Tensor:
    """The features of one product that stay, and its constant."""
    stays = torch.ones(reading.features, dtype=torch.bool)
    stays[gone] = False
    parts = [stays[: reading.inputs]] * one.of_input + [stays[reading.inputs :]] * one.of_state
    constant = [torch.ones(1, dtype=torch.bool)] * reading.biased
    return torch.nonzero(torch.cat([*parts, *constant])).ravel()


def empty_sums(reading: Recurrence, one: Product, device: str) -> Sums:
    width = reading.inputs * one.of_input + reading.hidden * one.of_state
    return Sums(1, width, one.stop - one.start, reading.biased, device)


def moved(reading: Recurrence, weights: Weights, solved: Mapping[tuple[int, Product], torch.Tensor]) -> Weights:
    """The weights with other matrices (features and the constant, outputs) in some products; the constant adds to what
    is there."""
    w, r = weights.w.clone(), weights.r.clone()
    b = None if weights.b is None else weights.b.clone()
    for (direction, one), matrix in solved.items():
        rows, at = slice(one.start, one.stop), 0
        if one.of_input:
            w[direction, rows] = matrix[: reading.inputs].T.to(w.dtype)
            at = reading.inputs
        if one.of_state:
            r[direction, rows] = matrix[at : at + reading.hidden].T.to(r.dtype)
        if b is not None:
            half = b[direction].reshape(2, -1)[one.bias]  # a view
            half[rows] += matrix[-1].to(b.dtype)
    return Weights(w, r, b)


def changed(reading: Recurrence, constants: Mapping[str, Array], weights: Weights) -> dict[str, Array]:
    """The constants that these weights are. What did not change keeps every bit."""
    before, found = reading.weights(constants), {}
    for slot, new, old in zip(WEIGHTS, (weights.w, weights.r, weights.b), (before.w, before.r, before.b), strict=True):
        if new is not None and old is not None and not torch.equal(new.cpu(), old):
            name = reading.op.inputs[slot]
            found[name] = new.cpu().numpy().astype(constants[name].dtype)
    return found
