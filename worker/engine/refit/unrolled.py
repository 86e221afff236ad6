"""The walk at a recurrent layer: its gates are fitted, and judged by what the layer gives when it runs on its own.

In: teacher and student over the samples to fit and over those held back, and the features that are gone. Out: new
weights, and the error of the layer's output before and after as a share of its size. Rounds of fitting meet the states
that the student has by then; a round or a ridge that lowers nothing on held-back samples leaves no trace.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from worker.engine.execute import Executor, Walk
from worker.engine.ops.recurrent import Product
from worker.engine.ops.rule import Tensors
from worker.engine.refit.normal import Normal, solve
from worker.engine.refit.recurrent import (
    Recurrence,
    Weights,
    empty_sums,
    features,
    kept_of,
    moved,
    steps,
    tensors_of,
)
from worker.engine.refit.rows import rows_for

ROUNDS = 4
RIDGES = (1e-6, 1e-4, 1e-2, 1.0)
Key = tuple[int, Product]  # a direction and a product


@dataclass(frozen=True, eq=False)
class Case:
    """One batch at the layer. States are the teacher's: (directions, steps, samples, hidden)."""

    teacher: Tensors
    student: Tensors
    before: torch.Tensor
    after: torch.Tensor


@dataclass(frozen=True, eq=False)
class Fitted:
    weights: Weights
    before: float
    after: float
    ridge: float | None


@torch.inference_mode()
def case(reading: Recurrence, taught: Weights, teacher: tuple[Executor, Walk], student: tuple[Executor, Walk]) -> Case:
    """What both models hold at the layer for one batch."""
    names = [name for name in reading.op.inputs if name]
    own, other = (
        tensors_of(reading, {name: executor.value(walk, name) for name in names})
        for executor, walk in (teacher, student)
    )
    before, after = steps(reading, own, taught)
    return Case(own, other, before, after)


@dataclass(frozen=True, eq=False)
class Unrolled:
    """A layer with its cases. `gone` are features, inputs first; `taught` the teacher's weights."""

    reading: Recurrence
    taught: Weights
    gone: torch.Tensor
    fit: Sequence[Case]
    held: Sequence[Case]
    generator: torch.Generator

    @torch.inference_mode()
    def fitted(self) -> Fitted:
        plain = self.taught.without(self.gone)
        best, ridge, before = plain, None, self.error(plain)
        lowest = before
        for number in range(ROUNDS):
            normals = self._normals(None if number == 0 else best)
            better = False
            for candidate in RIDGES:
                weights = moved(self.reading, plain, self._solved(normals, candidate))
                if (found := self.error(weights)) < lowest:
                    best, ridge, lowest, better = weights, candidate, found, True
            if number > 0 and not better:
                break
        return Fitted(best, before, lowest, ridge)

    def error(self, weights: Weights) -> float:
        """How far the layer's output is from the teacher's on held-back samples, over the units that stay."""
        stays = torch.ones(self.reading.features, dtype=torch.bool)
        stays[self.gone] = False
        kept = torch.nonzero(stays[self.reading.inputs :]).ravel().to(weights.w.device)
        wrong = size = 0.0
        for one in self.held:
            _, after = steps(self.reading, one.student, weights)
            wrong += float((after - one.after)[..., kept].square().sum(dtype=torch.float64))
            size += float(one.after[..., kept].square().sum(dtype=torch.float64))
        return wrong / max(size, torch.finfo(torch.float64).tiny)

    def _keys(self) -> Iterator[Key]:
        return ((direction, one) for direction in range(len(self.taught.w)) for one in self.reading.products)

    def _normals(self, weights: Weights | None) -> Mapping[Key, Normal]:
        """With the states that these weights lead to, or with the teacher's."""
        reading, device = self.reading, str(self.taught.w.device)
        sums = {key: empty_sums(reading, key[1], device) for key in self._keys()}
        rows = rows_for(reading.features) // len(self.fit)
        for one in self.fit:
            before = one.before if weights is None else steps(reading, one.student, weights)[0]
            own = self.taught if weights is None else weights
            places = before.shape[1] * before.shape[2]
            spots = torch.randperm(places, generator=self.generator)[: max(rows, 1)].to(device)
            for (direction, product), total in sums.items():
                seen = features(reading, one.student, own, before, product, direction)[spots]
                taught = features(reading, one.teacher, self.taught, one.before, product, direction)[spots]
                total.add(seen[None], (taught @ self.taught.matrix(direction, product))[None])
        return {key: total.means() for key, total in sums.items()}

    def _solved(self, normals: Mapping[Key, Normal], ridge: float) -> dict[Key, torch.Tensor]:
        found = {}
        for (direction, product), normal in normals.items():
            w = self.taught.matrix(direction, product).to(torch.float64)
            if self.reading.biased:  # what is there already is left where it is
                w = torch.cat([w, torch.zeros_like(w[:1])])
            kept = kept_of(self.reading, product, self.gone).to(w.device)
            found[direction, product] = solve(normal, w[None], kept, ridge)[0]
        return found
