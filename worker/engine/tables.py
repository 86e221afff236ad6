"""The figures of a sweep as comma-separated values, one line for each point and seed.

In: a `SweepReport`. Out: text with a head line. Empty cells are figures that there are none of.
"""

import csv
import io
from collections.abc import Iterable, Sequence

from schemas.sweep_report import PointRun, SweepReport

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


def as_csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
