"""Front to back through the network: every operator that reads removed units is fitted to what the teacher computed.

In: the readings, the samples to fit and those held back, and which units go (of an inner group possibly only how many:
which ones is decided here, from what the student really computes). Out: the changed weights at full width and, for each
reading, its error on the held-back samples before and after.

Teacher and student walk side by side, batch by batch, and stop before every reading: the student's own values are the
features, the teacher's values behind the tail, less what the student itself adds there, the target. So each operator
also repairs what went wrong before it, and an operator that reads nothing removed is fitted for that alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import torch

from worker.engine.execute import Executor, Held, Masks, Walk
from worker.engine.graph import Array, Graph, Op
from worker.engine.refit.dual import Trial
from worker.engine.refit.eliminate import ORDER_RIDGE, order, reader
from worker.engine.refit.forming import Forming, Stretch, formed
from worker.engine.refit.lanes import lane_by_lane, mixed, same
from worker.engine.refit.normal import Normal, Sums, solve
from worker.engine.refit.readings import Reading
from worker.engine.refit.rectified import Rows
from worker.engine.refit.recurrent import Recurrence, Weights, changed
from worker.engine.refit.rows import MOST_BYTES, row_bytes, rows_wanted, some_of
from worker.engine.refit.unrolled import Case, Unrolled, case
from worker.engine.refit.weights import change, judged_scale, matrix, weighed
from worker.engine.shelf import IN_MEMORY, Shelf
from worker.engine.ties import Points

RECTIFIED_STEPS = 6
WIDE_RIDGES, WIDE_STEPS = (1e-4, 1e-2, 1e-1, 1.0), 2  # of what is fitted row by row each costs more
WORTH_A_BIAS = 0.98  # of the error: a bias that the model does not have is added for no less
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)

Batches = Sequence[Mapping[str, Array]]
Ranked = Sequence[tuple[int, float]]  # units in the order in which they go, and what each costs


@dataclass(frozen=True)
class Refit:
    """What became of one reading. Errors are shares of the mean square of what is judged, on held-back samples; where a
    ReLU follows, of what passes it."""

    reading: Reading | Recurrence
    inputs: int
    kept: int
    before: float
    after: float
    ridge: float | None  # None where nothing was better than leaving the rest as it was


@dataclass
class Plan:
    """What goes. `gone` is settled; of the groups in `open` so many units go, and the walk says which."""

    gone: dict[str, tuple[int, ...]]
    open: dict[str, int] = field(default_factory=dict)
    ranked: dict[str, Ranked] = field(default_factory=dict)


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

    def fork(self, executor: Executor, masks: Masks, keep: Iterable[str] = ()) -> "Trail":
        """Another model over the same samples, which so far has computed the same."""
        other = Trail(executor, (), masks=masks)
        executor.fixed = {**self.executor.fixed, **executor.fixed}  # with what constants alone have given
        other.walks = [executor.fork(walk, keep) for walk in self.walks]
        return other

    def value(self, place: int, name: str) -> torch.Tensor:
        value: Held = self.executor.value(self.walks[place], name)
        assert isinstance(value, torch.Tensor), f"{name} holds no numbers"
        return value

    @torch.no_grad()
    def again(self, ops: Sequence[Op], start: str, wanted: str) -> None:
        """A value that has been computed is computed anew, from where these operators start."""
        for walk in self.walks:
            values = {**self.executor.fixed, start: self.executor.value(walk, start)}
            walk.live[wanted] = self.executor.part(ops, values, wanted, self.masks or {})

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            for walk in self.walks:
                self.executor.drop(walk, name)


def columns_kept(reading: Reading | Recurrence, gone: Mapping[str, tuple[int, ...]]) -> Points:
    """What the Gram of a reading is still of, features or lanes, with the constant."""
    whole = reading.features if isinstance(reading, Recurrence) else reading.columns + bool(reading.tail.bias)
    stays = np.ones(whole, bool)
    for name, rows in reading.units.items():
        stays[rows[list(gone.get(name, ()))].ravel()] = False
    return np.flatnonzero(stays)


def features_kept(reading: Reading | Recurrence, gone: Mapping[str, tuple[int, ...]]) -> Points:
    """The features that stay, with the constant."""
    kept = columns_kept(reading, gone)
    if isinstance(reading, Recurrence) or reading.lanes is None:
        return kept
    features: Points = reading.lanes[kept[kept < len(reading.lanes)]].ravel()
    constant = [reading.linear.features] * bool(reading.tail.bias)
    return np.concatenate([np.sort(features), np.array(constant, np.int64)])


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
    """Teacher and student over the same samples."""

    teacher: Trail
    student: Trail

    @torch.inference_mode()
    def collect(self, graph: Graph, reading: Reading, generator: torch.Generator, judges: bool) -> Seen:
        """The normal equations of one reading, or the rows themselves: where a ReLU follows, where lanes are to be
        judged, and where there are too many features; and the mean over places of the square of what is judged."""
        rows = rows_wanted(reading)
        linear, tail = reading.linear, reading.tail
        self.student.until(reading.op.index)
        self.teacher.until(max(graph.producer[name].index for name in (tail.end, tail.judged)) + 1)
        places = range(len(self.teacher.walks))
        device, lanes = self.student.executor.device, reading.lanes
        outputs = linear.outputs if lanes is None else len(lanes)
        sums = None if reading.wide else Sums(linear.blocks, reading.columns, outputs, bool(tail.bias), device)
        there = sum(prod(linear.places(tuple(self.student.value(place, reading.source).shape))) for place in places)
        fits = min(rows, there) * row_bytes(reading) <= MOST_BYTES
        sign = torch.from_numpy(np.sign(tail.scale)).to(device, torch.float32).reshape(linear.blocks, 1, -1)
        wanted = reading.wide or (tail.rectified and fits if lanes is None else judges)
        kept = Rows(sign, bool(tail.bias)) if wanted else None
        squares, count = 0.0, 0
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
            squares += float(judged.square().sum(dtype=torch.float64))
            count += judged.numel() // linear.count
        self.teacher.drop(reading.taught)
        return Seen(None if sums is None else sums.means(), kept, squares / max(count, 1))

    def stretches(self, chain: Forming) -> list[Stretch]:
        """What both models hold at a chain."""
        tail, value = chain.reading.tail, self.student.value
        return [
            Stretch(
                value(at, chain.start),
                {name: value(at, name) for name in tail.addends},
                self.teacher.value(at, tail.end),
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


@dataclass(eq=False)
class Refitting:
    """The walk: `fit` and `held` share the student whose weights change on the way."""

    graph: Graph
    student: Executor
    fit: Sides
    held: Sides
    plan: Plan
    generator: torch.Generator
    shelf: Shelf = IN_MEMORY
    formings: Mapping[int, Forming] = field(default_factory=dict)  # by the index of the operator that reads
    changed: dict[str, Array] = field(default_factory=dict)

    def step(self, reading: Reading | Recurrence) -> Refit:
        if isinstance(reading, Recurrence):
            return self._recur(reading)
        refit = self._fit_wide(reading) if reading.wide else self._fit(reading)
        chain = self.formings.get(reading.op.index)
        return refit if chain is None else self._form(chain, refit)

    def _recur(self, reading: Recurrence) -> Refit:
        taught = reading.weights(self.graph.constants).to(self.student.device)
        gone = torch.from_numpy(np.setdiff1d(np.arange(reading.features), columns_kept(reading, self.plan.gone)))
        fit, held = self.fit.cases(reading, taught), self.held.cases(reading, taught)
        found = Unrolled(reading, taught, gone, fit, held, self.generator).fitted()
        self._change(changed(reading, self.graph.constants, found.weights))
        width = reading.features + reading.biased
        return Refit(reading, width, width - len(gone), found.before, found.after, found.ridge)

    def _change(self, arrays: Mapping[str, Array]) -> None:
        for name, array in arrays.items():
            self.changed[name] = self.shelf.keep(array)
            self.student.replace(name, self.changed[name])
        self.shelf.ease()

    def _fit_wide(self, reading: Reading) -> Refit:
        """Row by row, for want of a Gram."""
        device = self.student.device
        fit = self.fit.collect(self.graph, reading, self.generator, judges=False).rows
        held = self.held.collect(self.graph, reading, self.generator, judges=True)
        assert fit is not None
        assert held.rows is not None
        scale = judged_scale(reading, held.energy).to(device)
        full = matrix(self.graph, reading).to(device)
        kept = torch.from_numpy(columns_kept(reading, self.plan.gone)).to(device)
        plain = torch.zeros_like(full)
        plain[:, kept] = full[:, kept]

        def error(weights: torch.Tensor, rows: Rows = held.rows) -> float:
            return float((rows.error(weights) * scale.square()).sum())

        before = error(plain)
        constants = {False: 1.0, True: WORTH_A_BIAS} if reading.new_bias else {bool(reading.tail.bias): 1.0}
        trial = Trial(fit, plain, kept[kept < reading.linear.features], error, before)
        best, ridge, lowest = trial.best(constants, WIDE_RIDGES, WIDE_STEPS if reading.tail.rectified else 0)
        self._change(change(self.graph, reading, best - full))
        return Refit(reading, full.shape[1], len(kept), before, lowest, ridge)

    def _fit(self, reading: Reading) -> Refit:
        device, lanes = self.student.device, reading.lanes
        fit = self.fit.collect(self.graph, reading, self.generator, judges=False)
        held = self.held.collect(self.graph, reading, self.generator, judges=True)
        normal, other = fit.normal, held.normal
        assert normal is not None
        assert other is not None
        scale = judged_scale(reading, held.energy).to(device)
        self._choose(reading, normal, held.energy)
        full = matrix(self.graph, reading).to(device)
        w = full if lanes is None else same(len(full), len(lanes), normal.constant, device)
        kept = torch.from_numpy(columns_kept(reading, self.plan.gone)).to(device)
        stay = len(kept)
        plain = torch.zeros_like(w)
        plain[:, kept] = w[:, kept]

        def whole(weights: torch.Tensor) -> torch.Tensor:
            return weights if lanes is None else mixed(lanes, full, weights)

        def error(weights: torch.Tensor) -> float:
            own = other.error(weights) if held.rows is None else held.rows.error(whole(weights))
            return float((own * scale.square()).sum())

        before = error(plain)
        best, ridge, lowest = plain, None, before
        allowed = kept
        for rows in (kept[:-1], kept) if reading.new_bias else (kept,):
            worth = 1.0 if rows is not kept or not reading.new_bias else WORTH_A_BIAS
            for candidate in RIDGES:
                weights = solve(normal, w, rows, candidate)
                if (found := error(weights)) < worth * lowest:
                    best, ridge, lowest, allowed, worth = weights, candidate, found, rows, 1.0
        weights, kept = best, allowed
        for _ in range(RECTIFIED_STEPS if fit.rows is not None and held.rows is not None and ridge is not None else 0):
            assert fit.rows is not None
            assert ridge is not None
            weights = solve(fit.rows.retargeted(normal, weights), w, kept, ridge)
            if (found := error(weights)) < lowest:
                best, lowest = weights, found
        self._change(change(self.graph, reading, whole(best) - full))
        lost = (w.shape[1] - stay) * (1 if lanes is None else lanes.shape[1])
        return Refit(reading, full.shape[1], full.shape[1] - lost, before, lowest, ridge)

    def _form(self, chain: Forming, refit: Refit) -> Refit:
        """The units that stay, as they serve this reading best; what they give the reading is computed anew."""
        reading, gone = chain.reading, self.plan.gone.get(chain.group.name, ())
        fit, held = self.fit.stretches(chain), self.held.stretches(chain)
        found = formed(chain, self.student, gone, fit, held, self.generator) if gone else None
        if found is not None:
            self._change(found[0])
            between = [op for op in chain.ops if op.index < reading.op.index]
            for sides in {id(one): one for one in (self.fit, self.held)}.values():
                sides.student.again(between, chain.start, reading.source)
        for sides in (self.fit, self.held):
            sides.teacher.drop([reading.tail.end])
            sides.student.drop([chain.start])
        return refit if found is None else replace(refit, after=refit.after * found[1])

    def _choose(self, reading: Reading, normal: Normal, energy: float) -> None:
        """Which units of an open group go, by the student's own Gram."""
        names = reading.units.keys() & self.plan.open.keys()
        if not names:
            return
        w, scale = weighed(self.graph, reading, energy, self.student.device)
        if reading.lanes is not None:
            normal = replace(normal, b=normal.b @ w[:, : len(reading.lanes)])
        for name in names:
            rows = torch.from_numpy(reading.units[name]).to(w.device)
            one = reader(normal, w, rows, ORDER_RIDGE, scale)
            self.plan.ranked[name] = order([one], len(rows), self.plan.open.pop(name))
            self.plan.gone[name] = tuple(sorted(unit for unit, _ in self.plan.ranked[name]))
