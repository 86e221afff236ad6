"""The way from the uploaded model to the artifact, where it has several steps.

In: a `Report`. Out: a row for the uploaded model and one for each step.
"""

from dataclasses import dataclass

from schemas.report import FinishingStep, Report, Score, Side
from worker.engine.render import numbers


@dataclass(frozen=True)
class StepRow:
    name: str
    measure: str  # what the score is called
    score: str
    file: str
    gzip: str
    latency: str
    took: str
    detail: str


def step_rows(report: Report) -> tuple[StepRow, ...]:
    """Nothing where the artifact is the pruned model as it was cut."""
    if not report.steps:
        return ()
    first = _row("as uploaded", report.before, report.after.accuracy, "", "")
    return first, *(_row(one.step, one, one.accuracy, numbers.seconds(one.seconds), one.detail) for one in report.steps)


def _row(name: str, one: Side | FinishingStep, score: Score | None, took: str, detail: str) -> StepRow:
    return StepRow(
        name=name,
        measure=numbers.headline_name(score) if score is not None else "Accuracy",
        score=numbers.headline(one.accuracy) if one.accuracy is not None else "–",
        file=numbers.size(one.file_bytes),
        gzip=numbers.size(one.gzip_bytes),
        latency=numbers.milliseconds(one.latency_ms),
        took=took,
        detail=detail,
    )
