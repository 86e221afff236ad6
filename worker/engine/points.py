"""From the runs of each point to figures with spreads, and which point is the best.

In: the plan and what came of it. Out: `SweepPoint`s, the best one's number, the verdict. Nothing is refused.

The best point is the one with the fewest MACs (of equal ones, fewest nonzero parameters) among those that meet the
constraints. Where no constraint speaks of accuracy, a loss of more than a hundredth of the score also counts as broken:
else the best point of every sweep would be the most destructive one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from schemas.errors import Failure
from schemas.job import Verdict
from schemas.report import Report
from schemas.sweep import Planned
from schemas.sweep_report import PointRun, Spread, SweepPoint

TOLERATED = 0.01


@dataclass(frozen=True)
class Ran:
    """What came of one point with one seed."""

    seed: int
    outcome: Report | Failure


def summary(number: int, planned: Planned, ran: Sequence[Ran]) -> SweepPoint:
    """A point over its seeds."""
    runs = tuple(_run(one.seed, one.outcome) for one in ran if isinstance(one.outcome, Report))
    failure = next((one.outcome for one in ran if isinstance(one.outcome, Failure)), None)
    changes = [one.score - one.score_before for one in runs if one.score is not None and one.score_before is not None]
    return SweepPoint(
        number=number,
        label=planned.label,
        series=planned.series,
        options=planned.request,
        runs=runs,
        failure=failure,
        meets=failure is None and all(one.verdict.met for one in runs),
        score=_spread([one.score for one in runs]),
        score_change=_spread(changes),
        loss=_spread([one.loss for one in runs]),
        units_removed=_spread([one.units_removed for one in runs]),
        parameters=_spread([one.parameters for one in runs]),
        nonzero_parameters=_spread([one.nonzero_parameters for one in runs]),
        macs=_spread([one.macs for one in runs]),
        file_bytes=_spread([one.file_bytes for one in runs]),
    )


def _run(seed: int, report: Report) -> PointRun:
    before, after = report.before, report.after
    return PointRun(
        seed=seed,
        verdict=report.verdict,
        score_before=before.accuracy.score if before.accuracy else None,
        score=after.accuracy.score if after.accuracy else None,
        loss_before=before.accuracy.loss if before.accuracy else None,
        loss=after.accuracy.loss if after.accuracy else None,
        units_removed=sum(len(group.removed) for group in report.groups),
        parameters=after.parameters,
        nonzero_parameters=after.nonzero_parameters,
        macs=after.macs,
        file_bytes=after.file_bytes,
        flash_bytes=after.flash_bytes,
        peak_ram_bytes=after.peak_ram_bytes,
        latency_ms=after.latency_ms,
        max_relative_difference=report.exactness.max_relative_difference,
    )


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [float(one) for one in values if one is not None]
    return Spread(mean=fmean(known), std=pstdev(known)) if known and len(known) == len(values) else None


def chosen(points: Sequence[SweepPoint]) -> tuple[int | None, str]:
    """The number of the best point, and why it is that one."""
    ran = [point for point in points if point.runs and point.failure is None]
    able = [point for point in ran if point.meets]
    if not able:
        return None, "No point meets the constraints." if ran else "No point could be run with every seed."
    if any(_speaks_of_accuracy(point) for point in able):
        return _smallest(able).number, "Of the points that meet the constraints it has the fewest MACs."
    judged = [point for point in able if point.score_change is not None]
    if not judged:
        return None, "There was no data to judge with, and no constraint says what is good enough."
    close = [point for point in judged if point.score_change and point.score_change.mean >= -TOLERATED]
    if close:
        why = f"Of the points that lose at most {TOLERATED:g} of the score it has the fewest MACs."
        return _smallest(close).number, why
    least = max(judged, key=lambda point: point.score_change.mean if point.score_change else -1.0)
    return least.number, f"Every point loses more than {TOLERATED:g} of the score; it loses least."


def _speaks_of_accuracy(point: SweepPoint) -> bool:
    limits = point.options.constraints
    return limits.max_accuracy_drop is not None or limits.min_accuracy is not None


def _smallest(points: Sequence[SweepPoint]) -> SweepPoint:
    def size(point: SweepPoint) -> tuple[float, float]:
        assert point.macs is not None and point.nonzero_parameters is not None  # noqa: PT018  # it ran
        return point.macs.mean, point.nonzero_parameters.mean

    return min(points, key=size)


def verdict_of(points: Sequence[SweepPoint], best: int | None) -> Verdict:
    """Met as soon as one point meets its constraints; else what was in the way of each."""
    if best is not None or any(point.meets for point in points):
        return Verdict(met=True)
    return Verdict(met=False, broken=tuple(_obstacle(point) for point in points))


def _obstacle(point: SweepPoint) -> str:
    if point.failure is not None:
        return f"point {point.number} ({point.label}): {point.failure.code}"
    broken = next(one.verdict.broken for one in point.runs if not one.verdict.met)
    return f"point {point.number} ({point.label}): {'; '.join(broken)}"
