"""The gates of units: a gate multiplies its unit wherever that is read; closing it takes the unit away.

In: an executor, the loss, samples. Out: `Look`, which opens `Gates` for a group: how the loss changes when a gate
closes, to the first order (`slopes`), to the second (`curvatures`) or exactly (`changes`, see `trials`), whatever is
closed already. Refused: derivatives through operators that have none (`gradient_unavailable`, naming the operator).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

import numpy as np
import torch

from schemas.errors import EspalierError
from worker.engine import evaluate
from worker.engine.axes import Group
from worker.engine.data import Samples
from worker.engine.derivatives import exact, gauss_newton, outer, refuse_steps, slopes, spread
from worker.engine.execute import Executor, Held
from worker.engine.losses import Loss
from worker.engine.observe import Float
from worker.engine.reach import Batch, Reach
from worker.engine.straight import straight
from worker.engine.ties import Seen
from worker.engine.trials import Trials, trials

Curvature = Literal["exact", "gauss_newton"]
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

    def batches(self, reach: Reach, rows: int | None = None) -> Iterator[Batch]:
        """What the readers read, the target and the loss, part by part. Of a fixed batch only whole ones, unless the
        first is not."""
        size = self.executor.graph.fixed_batch()
        for part in self.samples.batches(size or rows or evaluate.chunk_rows(self.samples)):
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

    @cached_property
    def first_outer(self) -> dict[str, Float]:
        """The same of the Gauss-Newton form: one pass forwards, and one backwards for each output."""
        reach = Reach(self.executor, self.seen, self.groups, self.loss.tensor)
        gates = {group.name: reach.open_gates(group) for group in self.groups}
        return outer(self.loss, reach, gates, self.batches(reach, self.at_once(reach)))

    def at_once(self, reach: Reach) -> int:
        """Of so many samples the slopes of all outputs are kept at once."""
        if not reach.apart():
            return 1
        made = (shape for name, shape in self.seen.shapes.items() if name in reach.made)
        sizes = [*made, *(place.sizes for _, place in reach.places)]
        rows = TRACED // (self.outputs * sum(map(prod, sizes)))
        return min(max(rows, 1), evaluate.chunk_rows(self.samples))

    @cached_property
    def outputs(self) -> int:
        """How many numbers the loss takes of one sample; 0 where samples cannot be run one by one."""
        shape = self.seen.shapes[self.loss.tensor]
        return prod(shape[1:]) if shape[:1] == (1,) and self.executor.graph.fixed_batch() in (None, 1) else 0


class Gates:
    """The gates of one group's units, all open at first."""

    def __init__(self, look: Look, group: Group) -> None:
        self.look, self.group = look, group
        self.reach = Reach(look.executor, look.seen, (group,), look.loss.tensor)
        self.closed: list[int] = []

    @cached_property
    def batches(self) -> Iterable[Batch]:
        return self._kept(None)

    @cached_property
    def pieces(self) -> Iterable[Batch]:
        """Batches of as many samples as the slopes of all outputs are kept of."""
        rows = self.look.at_once(self.reach)
        return self.batches if rows == evaluate.chunk_rows(self.look.samples) else self._kept(rows)

    def _kept(self, rows: int | None) -> Iterable[Batch]:
        """Read again and again: kept where there is room."""
        kept, room = [], KEPT_BYTES
        for batch in self.look.batches(self.reach, rows):
            kept.append(batch)
            room -= batch.nbytes()
            if room < 0:
                return _Again(self.look, self.reach, rows)
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
        refuse_steps(self.reach)
        state = self._state()
        formed = how == "gauss_newton" or straight(self.reach)
        if formed and 0 < self.look.outputs <= self.group.units:
            if not self.closed:
                return self.look.first_outer[self.group.name]
            return outer(self.look.loss, self.reach, {self.group.name: state}, self.pieces)[self.group.name]
        second = exact if how == "exact" else gauss_newton
        total = torch.zeros(self.group.units, dtype=torch.float64)
        count = 0
        for batch in self.batches:
            count += batch.count
            along = second(self.look.loss, self.reach, self.group, batch, state)
            size = max(TRACED // max(batch.whole, 1), 1)
            parts = [spread(along, ways) for ways in torch.split(torch.diag(torch.ones_like(state)), size)]
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
    rows: int | None

    def __iter__(self) -> Iterator[Batch]:
        return self.look.batches(self.reach, self.rows)
