"""The error surface: how loss and score move when the units that a criterion removes first are switched off slowly, one
by one, and when more and more of them are off (Wolfe, Sharma and Raj, figures on the gates of single neurons and on the
degradation with the neurons removed).

In: the criteria's subjects with their evidence, and samples to judge with. Out: `Surface`. A gate multiplies a unit
wherever it is read, in the executor: nothing is cut and nothing compensated. Refused: whatever ranking and judging
refuse; a criterion that ranks no units, or cannot rank these, is left out with its reason.

The units of all groups stand in one row: by the share of its group that is gone when it is a unit's turn, so that k of
them are what a uniform share removes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from schemas.errors import EspalierError
from schemas.report import Score
from schemas.sweep import SurfaceRequest
from schemas.sweep_report import Degradation, GatedUnit, Surface
from worker.engine import evaluate, surgery
from worker.engine.criteria import passed_over, ranking
from worker.engine.criteria.evidence import Evidence
from worker.engine.data import Samples
from worker.engine.execute import Executor, to_numpy
from worker.engine.graph import Array
from worker.engine.measure import output_infos
from worker.engine.stages import Subject

Unit = tuple[str, int]  # group and number


@dataclass(frozen=True, eq=False)
class Ranked:
    """One criterion and the order in which it would remove units, over all groups."""

    series: str
    subject: Subject
    order: tuple[Unit, ...]


def ranked(series: str, subject: Subject, evidence: Mapping[str, Evidence]) -> Ranked:
    """A criterion's units in one row, the first to go first."""
    criterion = subject.request.criterion
    if criterion.prunes_weights():
        raise EspalierError("criterion_not_applicable", "it ranks single weights, not units", where="/criteria")
    passed = passed_over(criterion, evidence)
    row = []
    for place, group in enumerate(subject.groups):
        steps = () if group.name in passed else ranking(criterion).in_order(evidence[group.name])
        row += [((i + 1) / group.units, place, i, (group.name, step.unit)) for i, step in enumerate(steps)]
    return Ranked(series, subject, tuple(unit for *_, unit in sorted(row)))


class Trials:
    """Runs the network with some units gated, and judges what comes out."""

    def __init__(self, subject: Subject, samples: Samples) -> None:
        self.subject, self.samples = subject, samples
        self.batch = subject.graph.fixed_batch()
        self.task = evaluate.resolve_task(subject.request.evaluation, output_infos(subject), samples.labels)
        self.executor = Executor(subject.graph, subject.device)
        self.whole = self._output({})

    def score(self, units: Sequence[Unit], gate: float) -> Score:
        """With these units at the gate's setting."""
        if not units or gate == 1:
            return self._judged(self.whole)
        gone: dict[str, tuple[int, ...]] = {}
        for name, unit in units:
            gone[name] = (*gone.get(name, ()), unit)
        closed = surgery.masks(self.subject.analysis.ties, self.subject.groups, gone)
        gates = {
            key: torch.from_numpy(mask.astype(np.float32) * (1 - gate) + gate).to(self.subject.device)
            for key, mask in closed.items()
        }
        return self._judged(self._output(gates))

    def _output(self, gates: Mapping[tuple[int, int], torch.Tensor]) -> Array:
        parts = []
        for part in self.samples.batches(self.batch or evaluate.chunk_rows(self.samples)):
            found = self.executor.run(evaluate.pad(part, self.batch).inputs, masks=gates)[self.task.output]
            rows = evaluate.by_row(to_numpy(found), self.samples.axis(self.task.output))
            if not rows.ndim or len(rows) < part.count:
                detail = f"output {self.task.output!r} has shape {rows.shape} for {part.count} samples: no row for each"
                raise EspalierError("evaluation_invalid", detail, where="options.evaluation.output")
            parts.append(rows[: part.count])
        return np.concatenate(parts)

    def _judged(self, output: Array) -> Score:
        name = self.task.output
        return evaluate.score(self.task, {name: output}, self.samples.labels, {name: self.whole})


def surface(
    ask: SurfaceRequest,
    criteria: Sequence[Ranked],
    samples: Samples,
    left_out: Sequence[str],
    within: Callable[[float, str], None],
) -> Surface:
    """Every criterion's first units at every setting, and its row from none to all."""
    some = samples.rows(0, min(ask.samples, samples.count))
    gates = tuple(round(float(gate), 6) for gate in np.linspace(1, 0, ask.steps))
    total = sum(min(ask.units, len(one.order)) * len(gates) + ask.removals for one in criteria)
    done = 0
    units: list[GatedUnit] = []
    degradation: list[Degradation] = []
    trials = Trials(criteria[0].subject, some) if criteria else None

    def tick(series: str) -> None:
        nonlocal done
        done += 1
        within(done / total, series)

    for one in criteria:
        assert trials is not None, "there is a criterion"
        trials.subject = one.subject
        for rank, unit in enumerate(one.order[: ask.units], start=1):
            scores = []
            for gate in gates:
                scores.append(trials.score([unit], gate))
                tick(one.series)
            name, number = unit
            loss, score = _figures(scores)
            units.append(GatedUnit(series=one.series, rank=rank, group=name, unit=number, loss=loss, score=score))
        counts = tuple(sorted({round(k) for k in np.linspace(0, len(one.order), ask.removals).tolist()}))
        scores = []
        for count in counts:
            scores.append(trials.score(one.order[:count], 0.0))
            tick(one.series)
        loss, score = _figures(scores)
        degradation.append(Degradation(series=one.series, removed=counts, loss=loss, score=score))
    return Surface(
        gates=gates,
        units=tuple(units),
        degradation=tuple(degradation),
        samples=some.count,
        left_out=tuple(left_out),
    )


def _figures(scores: Sequence[Score]) -> tuple[tuple[float | None, ...], tuple[float, ...]]:
    return tuple(one.loss for one in scores), tuple(one.score for one in scores)
