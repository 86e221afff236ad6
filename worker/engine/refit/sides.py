"""Two models over the same samples: what one reading sees of the teacher and of the student.

In: executors, samples in batches, which constants the student has changed. Out: values of both models as far as they
have been walked, the normal equations or rows of a reading, what stands at a chain and at a recurrent layer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch

from worker.engine.execute import Executor, Held, Masks, Walk
from worker.engine.graph import Array, Graph, Op
from worker.engine.observe import Float
from worker.engine.refit.forming import Forming, Stretch
from worker.engine.refit.lanes import lane_by_lane
from worker.engine.refit.normal import Normal, Sums
from worker.engine.refit.readings import Reading
from worker.engine.refit.rectified import Rows
from worker.engine.refit.recurrent import Recurrence, Weights
from worker.engine.refit.rows import MOST_BYTES, row_bytes, rows_wanted, some_of
from worker.engine.refit.unrolled import Case, case

Batches = Sequence[Mapping[str, Array]]


class Trail:
    """One model and all samples, as far as they have been walked."""

    def __init__(
        self, executor: Executor, batches: Batches, keep: Iterable[str] = (), masks: Masks | None = None
    ) -> None:
        self.executor = executor
        self.masks = masks
        self.walks: list[Walk] = [executor.start(feeds, keep=keep) for feeds in batches]

    def until(self, index: int) -> None:
        for walk in self.walks:
            self.executor.advance(walk, index, masks=self.masks)

    def value(self, place: int, name: str) -> torch.Tensor:
        value: Held = self.executor.value(self.walks[place], name)
        assert isinstance(value, torch.Tensor), f"{name} holds no numbers"
        return value

    @torch.no_grad()
    def again(self, ops: Sequence[Op], starts: Sequence[str], wanted: str) -> None:
        """A value that has been computed is computed anew, from where these operators start."""
        for walk in self.walks:
            values = {**self.executor.fixed, **{name: self.executor.value(walk, name) for name in starts}}
            walk.live[wanted] = self.executor.part(ops, values, wanted, self.masks or {})

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            for walk in self.walks:
                self.executor.drop(walk, name)


@dataclass(frozen=True, eq=False)
class Seen:
    """What one reading sees on one set of samples."""

    normal: Normal | None  # of what is fitted row by row there is none
    rows: Rows | None
    energy: float

    def error(self, weights: torch.Tensor) -> torch.Tensor:
        """Of each output, with these weights of all features: (blocks, outputs)."""
        if self.rows is not None:
            return self.rows.error(weights)
        assert self.normal is not None
        return self.normal.error(weights)


@dataclass(frozen=True, eq=False)
class Sides:
    """Teacher and student over the same samples. `waiting` are batches that have not set out; up to the operator
    `parting` both models compute the same."""

    teacher: Trail
    student: Trail
    waiting: list[Mapping[str, Array]] = field(default_factory=list)
    parting: int = 0

    def admit(self, batches: int, taught: Iterable[str], starts: Iterable[str]) -> None:
        """Until so many are on their way, others set out. Named are the values of teacher and student that stay until
        they are dropped."""
        teacher, student = self.teacher.executor, self.student.executor
        taught, starts = tuple(taught), tuple(starts)
        while self.waiting and len(self.teacher.walks) < batches:
            walk = teacher.start(self.waiting.pop(0), keep=taught)
            teacher.advance(walk, self.parting)
            student.fixed = {**teacher.fixed, **student.fixed}  # with what constants alone have given
            self.student.walks.append(student.fork(walk, starts))
            self.teacher.walks.append(walk)

    @torch.inference_mode()
    def collect(
        self, graph: Graph, reading: Reading, generator: torch.Generator, worth: Float, *, judges: bool
    ) -> Seen:
        """The normal equations of one reading, or the rows themselves: where a ReLU follows, where lanes are to be
        judged, and where there are too many features; and the mean over places of the square of what is judged, each
        output as far as it is worth anything."""
        rows = rows_wanted(reading)
        linear, tail = reading.linear, reading.tail
        self.student.until(reading.op.index)
        self.teacher.until(max(graph.producer[name].index for name in (tail.end, tail.judged)) + 1)
        places = range(len(self.teacher.walks))
        device, lanes = self.student.executor.device, reading.lanes
        outputs = linear.outputs if lanes is None else len(lanes)
        there = sum(prod(linear.places(tuple(self.student.value(place, reading.source).shape))) for place in places)
        fits = min(rows, there) * row_bytes(reading) <= MOST_BYTES
        sign = torch.from_numpy(np.sign(tail.scale)).to(device, torch.float32).reshape(linear.blocks, 1, -1)
        wanted = reading.wide or (tail.rectified and fits if lanes is None else judges)
        kept = Rows(sign, bool(tail.bias)) if wanted else None
        told = judges and kept is not None  # rows alone say how large an error is
        sums = None if reading.wide or told else Sums(linear.blocks, reading.columns, outputs, bool(tail.bias), device)
        squares, count, counts = 0.0, 0, torch.from_numpy(worth).to(device, torch.float32)
        for place in places:
            target = self._target(reading, place)
            x = self.student.value(place, reading.source)
            spots = some_of(linear.places(tuple(x.shape)), rows // len(self.teacher.walks), generator)
            features, targets = linear.gather(x, spots), linear.results(target, spots)
            if lanes is None and sums is not None:
                sums.add(features, targets)
            elif lanes is not None and sums is not None:
                taught = linear.gather(self.teacher.value(place, reading.source), spots)
                sums.add(lane_by_lane(lanes, features), lane_by_lane(lanes, taught))
            if kept is not None and tail.rectified:
                end = self.teacher.value(place, tail.end)
                own = torch.from_numpy(tail.scale).to(targets).reshape(linear.blocks, 1, linear.outputs)
                kept.add(features, targets, targets - linear.results(end, spots) / own)
            elif kept is not None:
                kept.add(features, targets, (-torch.inf * sign).expand_as(targets))
            judged = self.teacher.value(place, tail.judged)
            squares += float((judged.square() * counts).sum(dtype=torch.float64))
            count += judged.numel() // linear.count
        self.teacher.drop(reading.taught)
        return Seen(None if sums is None else sums.means(), kept, squares / max(count, 1))

    def stretches(self, chain: Forming) -> list[Stretch]:
        """What both models hold at a chain."""
        tail, value = chain.reading.tail, self.student.value
        return [
            Stretch(
                {name: value(at, name) for name in (*chain.starts, *tail.addends)}, self.teacher.value(at, tail.end)
            )
            for at in range(len(self.teacher.walks))
        ]

    def cases(self, reading: Recurrence, taught: Weights) -> list[Case]:
        """What both models hold at a recurrent layer."""
        teacher, student = self.teacher, self.student
        for trail in (teacher, student):
            trail.until(reading.op.index)
        walks = zip(teacher.walks, student.walks, strict=True)
        found = [case(reading, taught, (teacher.executor, one), (student.executor, other)) for one, other in walks]
        teacher.drop(reading.taught)
        return found

    def _target(self, reading: Reading, place: int) -> torch.Tensor:
        """What the operator itself is to give, tail undone."""
        tail = reading.tail
        target = self.teacher.value(place, tail.end)
        for name in tail.addends:
            target = target - self.student.value(place, name)
        shape = reading.linear.spread
        if tail.shift.any():
            target = target - torch.from_numpy(tail.shift).to(target).reshape(shape)
        if (tail.scale != 1.0).any():
            target = target / torch.from_numpy(tail.scale).to(target).reshape(shape)
        return target
