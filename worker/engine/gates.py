"""The gates of units: a gate multiplies its unit wherever that is read; closing it takes the unit away.

In: an executor, the loss, samples. Out: `Look`, which opens `Gates` for a group: how the loss changes when a gate
closes, to the first order (`slopes`), to the second (`curvatures`) or exactly (`changes`, see `trials`), whatever is
closed already. Refused: derivatives through operators that have none (`gradient_unavailable`, naming the operator).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, TypeVar

import numpy as np
import torch
from torch.func import grad, vjp, vmap

from schemas.errors import EspalierError
from worker.engine import evaluate
from worker.engine.axes import Group
from worker.engine.data import Samples
from worker.engine.execute import Executor, Held, NoTrace
from worker.engine.losses import Loss
from worker.engine.memory import is_out_of_memory, shortened
from worker.engine.observe import Float
from worker.engine.reach import Batch, Reach
from worker.engine.ties import Seen
from worker.engine.trials import Trials, trials

Curvature = Literal["exact", "gauss_newton"]
Result = TypeVar("Result")
OfGate = Callable[[torch.Tensor], torch.Tensor]
# Steps have no slope: a derivative through them would be zero where the loss does change.
STEPS = frozenset({"Round", "Floor", "Ceil", "Sign", "QuantizeLinear", "DynamicQuantizeLinear"})
KEPT_BYTES = 1 << 28  # what the readers read is kept up to this size, else computed again for every removal
TRACED = 1 << 25  # numbers that a derivative over many gates may keep at once


@dataclass(frozen=True, eq=False)
class Look:
    """Opens gates. `tick` hears what is being looked at."""

    executor: Executor
    seen: Seen
    groups: tuple[Group, ...]
    loss: Loss
    samples: Samples
    tick: Callable[[str], None]

    def open(self, group: Group) -> "Gates":
        self.tick(group.name)
        return Gates(self, group)

    def batches(self, reach: Reach) -> Iterator[Batch]:
        """What the readers read, the target and the loss, part by part. Of a fixed batch only whole ones, unless the
        first is not."""
        size = self.executor.graph.fixed_batch()
        for part in self.samples.batches(size or evaluate.chunk_rows(self.samples)):
            if size is None or part.count == size or part.count == self.samples.count:
                yield self._batch(reach, evaluate.pad(part, size), part.count)

    def _batch(self, reach: Reach, part: Samples, count: int) -> Batch:
        values: dict[str, Held] = {}
        sizes: list[int] = []

        def visit(name: str, value: Held) -> None:
            if name in reach.given or name == self.loss.tensor:
                values[name] = value
            if name in reach.made and isinstance(value, torch.Tensor):
                sizes.append(value.numel())

        self.executor.run(part.inputs, visit)
        said = values[self.loss.tensor]
        assert isinstance(said, torch.Tensor), "losses are of numbers"
        target = self.loss.target(said, part.labels)
        given = {name: value for name, value in values.items() if name in reach.given}
        return Batch(given, target, count, max(sizes, default=1), sum(sizes))

    @cached_property
    def first_slopes(self) -> dict[str, Float]:
        """With all gates open: one pass forwards and backwards for all groups."""
        reach = Reach(self.executor, self.seen, self.groups, self.loss.tensor)
        gates = {group.name: reach.open_gates(group) for group in self.groups}
        return slopes(self.loss, reach, gates, self.batches(reach))


class Gates:
    """The gates of one group's units, all open at first."""

    def __init__(self, look: Look, group: Group) -> None:
        self.look, self.group = look, group
        self.reach = Reach(look.executor, look.seen, (group,), look.loss.tensor)
        self.closed: list[int] = []

    @cached_property
    def batches(self) -> Iterable[Batch]:
        """Read again and again: kept where there is room."""
        kept, room = [], KEPT_BYTES
        for batch in self.look.batches(self.reach):
            kept.append(batch)
            room -= batch.nbytes()
            if room < 0:
                return _Again(self.look, self.reach)
        return kept

    @cached_property
    def trials(self) -> Trials:
        return trials(self.look.loss, self.reach, self.group, self.batches)

    def ask_for_labels(self) -> None:
        """Refuses a loss whose slope says nothing."""
        if not self.look.loss.labelled:
            raise EspalierError(
                "labels_required",
                "against a model's own answers its loss is at its least: the slope there is zero in every unit",
                where="calibration",
            )

    def close(self, unit: int) -> None:
        self.closed.append(unit)

    def changes(self, units: "np.typing.NDArray[np.int64]") -> Float:
        """What closing each of these gates, alone, does to the mean loss."""
        return self.trials.changes(units, self.closed)

    def slopes(self) -> Float:
        """The derivative of the mean loss in each gate."""
        if not self.closed:
            return self.look.first_slopes[self.group.name]
        gates = {self.group.name: self._state()}
        return slopes(self.look.loss, self.reach, gates, self.batches)[self.group.name]

    def curvatures(self, how: Curvature) -> Float:
        """The second derivative of the mean loss in each gate, or the part of it that the outputs' slopes give."""
        _refuse_steps(self.reach)
        state = self._state()
        second = _second if how == "exact" else _gauss_newton
        total = torch.zeros(self.group.units, dtype=torch.float64)
        count = 0
        for batch in self.batches:
            count += batch.count
            along = second(self.look.loss, self.reach, self.group, batch, state)
            size = max(TRACED // max(batch.whole, 1), 1)
            parts = [_spread(along, ways) for ways in torch.split(torch.diag(torch.ones_like(state)), size)]
            total += torch.cat(parts).to(torch.float64).cpu()
        found: Float = total.numpy() / max(count, 1)
        return found

    def _state(self) -> torch.Tensor:
        state = self.reach.open_gates(self.group)
        state[self.closed] = 0
        return state


@dataclass(frozen=True, eq=False)
class _Again:
    look: Look
    reach: Reach

    def __iter__(self) -> Iterator[Batch]:
        return self.look.batches(self.reach)


def slopes(loss: Loss, reach: Reach, gates: Mapping[str, torch.Tensor], batches: Iterable[Batch]) -> dict[str, Float]:
    """The gradient of the mean loss in the gates of some groups."""
    _refuse_steps(reach)
    total = {name: np.zeros(len(gate)) for name, gate in gates.items()}
    count = 0
    for batch in batches:
        count += batch.count

        def of_gates(gates: Mapping[str, torch.Tensor], batch: Batch = batch) -> torch.Tensor:
            return reach.lost(loss, batch, gates).sum()

        found: Mapping[str, torch.Tensor] = _traced(partial(grad(of_gates), dict(gates)))
        for name, one in found.items():
            total[name] += one.detach().cpu().numpy().astype(np.float64)
    return {name: one / max(count, 1) for name, one in total.items()}


def _second(loss: Loss, reach: Reach, group: Group, batch: Batch, state: torch.Tensor) -> OfGate:
    """Along a direction of the gates: the loss's second derivative."""

    def along(way: torch.Tensor) -> torch.Tensor:
        def lost(step: torch.Tensor) -> torch.Tensor:
            return reach.lost(loss, batch, {group.name: state + step * way}).sum()

        curve: torch.Tensor = grad(grad(lost))(state.new_zeros(()))
        return curve

    return along


def _gauss_newton(loss: Loss, reach: Reach, group: Group, batch: Batch, state: torch.Tensor) -> OfGate:
    """The same where the outputs move on straight lines: the loss's curvature along the outputs' slope."""

    def along(way: torch.Tensor) -> torch.Tensor:
        start = state.new_zeros(())
        found = vjp(lambda step: reach.said(batch, {group.name: state + step * way}), start)
        said, pull = found[0], found[1]
        # Backwards twice: `pull` is linear, and what a number of its argument is multiplied by is that output's slope.
        slope = grad(lambda push: pull(push)[0])(torch.zeros_like(said))

        def lost(step: torch.Tensor) -> torch.Tensor:
            return loss.each(said + step * slope, batch.target)[: batch.count].sum()

        curve: torch.Tensor = grad(grad(lost))(start)
        return curve

    return along


def _spread(along: OfGate, ways: torch.Tensor) -> torch.Tensor:
    """One number for each direction, all at once where the operators allow it."""
    try:
        return vmap(along)(ways).detach()
    except (NoTrace, EspalierError, RuntimeError, NotImplementedError):
        return _traced(lambda: torch.stack([along(way) for way in ways]).detach())


def _traced(work: Callable[[], Result]) -> Result:
    """The work, or which operator has no derivative."""
    try:
        return work()
    except NoTrace as stop:
        raise _unavailable(stop.op.label(), "it is computed outside torch") from None
    except EspalierError as failed:
        if failed.code != "model_does_not_run":
            raise
        raise _unavailable(failed.failure.where, failed.failure.detail) from None
    except (RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise EspalierError("job_out_of_memory", f"an allocation failed: {shortened(error)}") from None
        raise _unavailable("model", shortened(error)) from None


def _refuse_steps(reach: Reach) -> None:
    for op in reach.ops:
        if op.key in STEPS:
            raise _unavailable(op.label(), "its output moves in steps, so its derivative is zero where the loss moves")


def _unavailable(where: str, why: str) -> EspalierError:
    return EspalierError("gradient_unavailable", f"no derivative passes {where}: {why}", where=where)
