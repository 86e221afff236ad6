"""Front to back through the network: every operator that reads removed units is fitted to what the teacher computed.

In: the readings, the samples to fit and those held back, and which units go (of an inner group possibly only how many:
which ones is decided here, from what the student really computes). Out: the changed weights at full width and, for each
reading, its error on the held-back samples before and after.

Teacher and student walk side by side, batch by batch, and stop before every reading: the student's own values are the
features, the teacher's values behind the tail, less what the student itself adds there, the target. So each operator
also repairs what went wrong before it, and an operator that reads nothing removed is fitted for that alone.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np
import torch

from worker.engine import surgery
from worker.engine.axes import Group
from worker.engine.execute import Executor
from worker.engine.graph import Array, Graph
from worker.engine.observe import Float
from worker.engine.refit.dual import Trial
from worker.engine.refit.eliminate import ORDER_RIDGE, order, reader
from worker.engine.refit.exchange import exchanged
from worker.engine.refit.forming import THOROUGH, Forming, formed
from worker.engine.refit.lanes import mixed, same
from worker.engine.refit.normal import Normal, solve
from worker.engine.refit.readings import Reading
from worker.engine.refit.rectified import Rows
from worker.engine.refit.recurrent import Recurrence, changed
from worker.engine.refit.sides import Sides
from worker.engine.refit.unrolled import Unrolled
from worker.engine.refit.weights import change, judged_scale, matrix, weighed
from worker.engine.refit.worth import worth
from worker.engine.shelf import IN_MEMORY, Shelf
from worker.engine.ties import Points

RECTIFIED_STEPS = 2
WIDE_RIDGES, WIDE_STEPS = (1e-4, 1e-2, 1e-1, 1.0), 2  # of what is fitted row by row each costs more
WORTH_A_BIAS = 0.98  # of the error: a bias that the model does not have is added for no less
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)

Ranked = Sequence[tuple[int, float]]  # units in the order in which they go, and what each costs


@dataclass(frozen=True)
class Refit:
    """What became of one reading. Errors are shares of the mean square of what is judged, on held-back samples, each
    output as far as it is worth anything; where a ReLU follows, of what passes it."""

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


@dataclass(eq=False)
class Refitting:
    """The walk: `fit` and `held` share the student whose weights change on the way."""

    graph: Graph
    groups: Sequence[Group]
    student: Executor
    fit: Sides
    held: Sides
    plan: Plan
    generator: torch.Generator
    shelf: Shelf = IN_MEMORY
    formings: Mapping[int, Forming] = field(default_factory=dict)  # by the index of the operator that reads
    scores: Set[str] = frozenset()  # values whose rows are scores of classes
    thorough: bool = False  # descents of more steps
    changed: dict[str, Array] = field(default_factory=dict)

    def step(self, ahead: Sequence[Reading | Recurrence], share: float) -> Refit:
        """The first of those ahead, with such a share of the samples."""
        reading = ahead[0]
        self._admit(ahead, share)
        if isinstance(reading, Recurrence):
            return self._recur(reading)
        refit = self._fit_wide(reading) if reading.wide else self._fit(reading)
        chain = self.formings.get(reading.op.index)
        return refit if chain is None else self._form(chain, refit)

    def _admit(self, ahead: Sequence[Reading | Recurrence], share: float) -> None:
        chains = [chain for one in ahead if (chain := self.formings.get(one.op.index)) is not None]
        taught = [name for one in ahead for name in one.taught] + [chain.reading.tail.end for chain in chains]
        for sides in (self.fit, self.held):
            whole = len(sides.waiting) + len(sides.teacher.walks)
            sides.admit(ceil(share * whole), taught, [name for chain in chains for name in chain.starts])

    def _worth(self, reading: Reading) -> Float:
        return worth(self.graph, reading, self.groups, self.plan.gone)

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
        counts = self._worth(reading)
        fit = self.fit.collect(self.graph, reading, self.generator, counts, judges=False).rows
        held = self.held.collect(self.graph, reading, self.generator, counts, judges=True)
        assert fit is not None
        assert held.rows is not None
        scale = judged_scale(reading, held.energy, counts).to(device)
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
        device, lanes, counts = self.student.device, reading.lanes, self._worth(reading)
        fit = self.fit.collect(self.graph, reading, self.generator, counts, judges=False)
        held = self.held.collect(self.graph, reading, self.generator, counts, judges=True)
        normal = fit.normal
        assert normal is not None
        scale = judged_scale(reading, held.energy, counts).to(device)
        self._choose(reading, normal, held.energy, counts)
        full = matrix(self.graph, reading).to(device)
        w = full if lanes is None else same(len(full), len(lanes), normal.constant, device)
        kept = torch.from_numpy(columns_kept(reading, self.plan.gone)).to(device)
        stay = len(kept)
        plain = torch.zeros_like(w)
        plain[:, kept] = w[:, kept]

        def whole(weights: torch.Tensor) -> torch.Tensor:
            return weights if lanes is None else mixed(lanes, full, weights)

        def error(weights: torch.Tensor) -> float:
            own = held.error(weights if held.rows is None else whole(weights))
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
        reading, gone = chain.reading, any(self.plan.gone.get(name) for name in chain.groups)
        fit, held = self.fit.stretches(chain), self.held.stretches(chain)
        counts = torch.from_numpy(self._worth(reading)).to(self.student.device, torch.float32)
        lost = surgery.indices_gone(self.groups, self.plan.gone)
        chooses = reading.tail.end in self.scores and not reading.tail.rectified
        found = None
        if gone:
            effort = THOROUGH if self.thorough else 1.0
            found = formed(chain, self.student, lost, fit, held, counts, self.generator, effort, chooses)
        if found is not None:
            self._change(found[0])
            between = [op for op in chain.ops if op.index < reading.op.index]
            for sides in {id(one): one for one in (self.fit, self.held)}.values():
                sides.student.again(between, chain.starts, reading.source)
        for sides in (self.fit, self.held):
            sides.teacher.drop([reading.tail.end])
            sides.student.drop(chain.starts)
        return refit if found is None else replace(refit, after=refit.after * found[1])

    def _choose(self, reading: Reading, normal: Normal, energy: float, counts: Float) -> None:
        """Which units of an open group go, by the student's own Gram."""
        names = reading.units.keys() & self.plan.open.keys()
        if not names:
            return
        w, scale = weighed(self.graph, reading, energy, self.student.device, counts)
        if reading.lanes is not None:
            normal = replace(normal, b=normal.b @ w[:, : len(reading.lanes)])
        for name in names:
            rows = torch.from_numpy(reading.units[name]).to(w.device)
            one = reader(normal, w, rows, ORDER_RIDGE, scale)
            found = order([one], len(rows), self.plan.open.pop(name))
            self.plan.ranked[name] = exchanged(normal, w, rows, ORDER_RIDGE, scale, found)
            self.plan.gone[name] = tuple(sorted(unit for unit, _ in self.plan.ranked[name]))
