"""The figures of a sweep as comma-separated values: its curve, its error surface, its degradation.

In: a `SweepReport` or its `Surface`. Out: text with a head line. Empty cells are figures that there are none of.
"""

import csv
import io
from collections.abc import Iterable, Sequence

from schemas.sweep_report import PointRun, Surface, SweepReport

FIGURES = tuple(name for name in PointRun.model_fields if name not in ("seed", "verdict"))


def curve_table(report: SweepReport) -> str:
    """Every run of every point."""
    rows: list[Sequence[object]] = [("point", "series", "label", "seed", *FIGURES, "met", "failure")]
    for point in report.points:
        for run in point.runs:
            figures = [getattr(run, name) for name in FIGURES]
            rows.append((point.number, point.series, point.label, run.seed, *figures, run.verdict.met, ""))
        if point.failure is not None:
            empty = [None] * len(FIGURES)
            rows.append((point.number, point.series, point.label, None, *empty, False, point.failure.code))
    return as_csv(rows)


def surface_table(found: Surface) -> str:
    """Every gated unit at every setting."""
    rows: list[Sequence[object]] = [("series", "rank", "group", "unit", "gate", "loss", "score")]
    for one in found.units:
        for gate, loss, score in zip(found.gates, one.loss, one.score, strict=True):
            rows.append((one.series, one.rank, one.group, one.unit, gate, loss, score))
    return as_csv(rows)


def degradation_table(found: Surface) -> str:
    """Every criterion with more and more units off."""
    rows: list[Sequence[object]] = [("series", "removed", "loss", "score")]
    for one in found.degradation:
        rows += [(one.series, *figures) for figures in zip(one.removed, one.loss, one.score, strict=True)]
    return as_csv(rows)


def as_csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
