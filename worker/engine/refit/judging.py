"""What weights that were worked out beforehand are worth to each consumer: the walk without any fitting.

In: teacher and student over samples that were held back, and changed constants at full width. Out: the constants that
are kept, and for each consumer its error with the weights that stay left as they were, and with those that were
proposed. With `veto` a proposal is kept only where it is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from worker.engine.axes import Group
from worker.engine.execute import Executor
from worker.engine.graph import Array, Graph
from worker.engine.refit.consumers import Consumer
from worker.engine.refit.readings import Reading
from worker.engine.refit.recurrent import WEIGHTS, Recurrence
from worker.engine.refit.sides import Sides
from worker.engine.refit.unrolled import Unrolled
from worker.engine.refit.walk import Plan, Refit, features_kept
from worker.engine.refit.weights import judged_scale, matrix
from worker.engine.refit.worth import worth


def movable(reading: Consumer) -> frozenset[str]:
    """The constants, and the value, that weights of this consumer are written into."""
    if isinstance(reading, Recurrence):
        return frozenset(reading.op.inputs[slot] for slot in WEIGHTS[: 2 + reading.biased])
    return frozenset(filter(None, (reading.linear.weight, reading.linear.bias, reading.tail.bias)))


@dataclass(eq=False)
class Judging:
    """`student` reads zero where units are gone."""

    graph: Graph
    groups: Sequence[Group]
    student: Executor
    held: Sides
    plan: Plan
    proposals: Mapping[str, Array]
    veto: bool
    generator: torch.Generator
    changed: dict[str, Array] = field(default_factory=dict)

    def step(self, reading: Consumer) -> Refit:
        own = {name: self.proposals[name] for name in movable(reading) if name in self.proposals}
        judge = self._recurrent if isinstance(reading, Recurrence) else self._linear
        inputs, kept, before, after = judge(reading, own)  # type: ignore[arg-type]
        taken = bool(own) and (after < before or not self.veto)
        if taken:
            self.changed |= own
            for name, array in own.items():
                self.student.replace(name, array)
        return Refit(reading, inputs, kept, before, after if taken else before, 0.0 if taken else None)

    def _linear(self, reading: Reading, own: Mapping[str, Array]) -> tuple[int, int, float, float]:
        counts = worth(self.graph, reading, self.groups, self.plan.gone)
        seen = self.held.collect(self.graph, reading, self.generator, counts, judges=True)
        device = self.student.device
        scale = judged_scale(reading, seen.energy, counts).to(device)
        full = matrix(self.graph, reading)
        stays = np.zeros(full.shape[1], bool)
        stays[features_kept(reading, self.plan.gone)] = True
        read = torch.from_numpy(stays)[None, :, None].to(full.dtype)

        def error(weights: torch.Tensor) -> float:
            weights = weights.to(device)
            found = seen.error(weights)
            return float((found * scale.square()).sum())

        proposed = self._proposed(reading, full, own)
        return full.shape[1], int(stays.sum()), error(full * read), error(proposed * read)

    def _proposed(self, reading: Reading, full: torch.Tensor, own: Mapping[str, Array]) -> torch.Tensor:
        """The matrix of the proposed weights, and what they add to the constant."""
        linear, graph = reading.linear, self.graph
        made = full.clone()
        if linear.weight in own:
            weight = linear.matrix(torch.from_numpy(own[linear.weight].astype(np.float64)))
            made[:, : linear.features] = weight.to(full.dtype)
        tail = reading.tail
        factors = {linear.bias: np.full(linear.count, linear.bias_scale), tail.bias: tail.bias_scale / tail.scale}
        for name, factor in factors.items():
            if name in own and tail.bias:
                none = np.zeros((), own[name].dtype)
                moved = own[name].astype(np.float64) - graph.constants.get(name, none).astype(np.float64)
                made[:, -1] += torch.from_numpy(factor * moved.ravel()).reshape(made[:, -1].shape).to(full.dtype)
        return made

    def _recurrent(self, reading: Recurrence, own: Mapping[str, Array]) -> tuple[int, int, float, float]:
        device, constants = self.student.device, self.graph.constants
        taught = reading.weights(constants).to(device)
        gone = torch.from_numpy(np.setdiff1d(np.arange(reading.features), features_kept(reading, self.plan.gone)))
        held = self.held.cases(reading, taught)
        layer = Unrolled(reading, taught, gone, (), held, self.generator)
        proposed = reading.weights({**constants, **own}).to(device).without(gone)
        width = reading.features + reading.biased
        return width, width - len(gone), layer.error(taught.without(gone)), layer.error(proposed)
