"""The way from the uploaded model to the artifact, where it has several steps; the forms that zeros are stored in.

In: a `Report`. Out: a row for the uploaded model and one for each step; a row for each form of storage.
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
    return first, *(_row(one.step, one, one.accuracy, _took(one), one.detail) for one in report.steps)


def _took(step: FinishingStep) -> str:
    """Nothing for the pruned model itself, which no step of its own made."""
    return numbers.seconds(step.seconds) if step.seconds else ""


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


@dataclass(frozen=True)
class StorageRow:
    form: str
    name: str
    file: str
    gzip: str
    nonzero: str
    latency: str


def storage_rows(report: Report) -> tuple[StorageRow, ...]:
    """How a model with zeros may be stored, and what each form costs."""
    return tuple(
        StorageRow(
            form=one.form,
            name=one.file,
            file=numbers.size(one.file_bytes),
            gzip=numbers.size(one.gzip_bytes),
            nonzero=f"{one.nonzero_weights:,} of {one.weights:,}",
            latency=numbers.milliseconds(one.latency_ms),
        )
        for one in report.storage
    )
