"""Before against after, line by line: texts, exact values, changes, and whether a change is welcome.

In: the two sides of a report. Out: `Measure`s.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from schemas.report import Score, Side
from worker.engine.render import numbers

Tone = Literal["good", "bad", "same"]
LATENCY_NOISE = 0.05, 0.02  # a share, and milliseconds: what is below either comes and goes from run to run


@dataclass(frozen=True)
class Measure:
    """One line of before against after."""

    name: str
    before: str
    after: str
    before_exact: str
    after_exact: str
    change: str
    factor: str
    tone: Tone
    share: float  # after over before, at most 1: a bar's length
    headline: bool


def measures(before: Side, after: Side, unstructured: bool) -> tuple[Measure, ...]:
    rows = [
        _counted("Parameters", before.parameters, after.parameters, not unstructured),
        _counted("Nonzero parameters", before.nonzero_parameters, after.nonzero_parameters, unstructured),
        _counted("MACs", before.macs, after.macs, not unstructured),
        _sized("File", before.file_bytes, after.file_bytes, not unstructured),
        _sized("File, gzipped", before.gzip_bytes, after.gzip_bytes, unstructured),
        _sized("Flash for weights", before.flash_bytes, after.flash_bytes, False),
        _sized("Peak RAM", before.peak_ram_bytes, after.peak_ram_bytes, True),
        _latency(before.latency_ms, after.latency_ms),
    ]
    if before.accuracy is not None and after.accuracy is not None:
        rows.extend(_scored(before.accuracy, after.accuracy))
    return tuple(rows)


def _latency(before: float, after: float) -> Measure:
    measure = _measure("Latency", before, after, numbers.milliseconds, "ms, median of one thread", headline=True)
    share, least = LATENCY_NOISE
    if abs(after - before) < max(share * before, least):
        return replace(measure, tone="same", change="within noise", factor="")
    return measure


def _counted(name: str, before: int, after: int, headline: bool) -> Measure:
    return _measure(name, before, after, numbers.count, "", headline=headline)


def _sized(name: str, before: int, after: int, headline: bool) -> Measure:
    return _measure(name, before, after, numbers.size, "bytes", headline=headline)


def _measure(
    name: str, before: float, after: float, text: Callable[[float], str], unit: str, *, headline: bool
) -> Measure:
    return Measure(
        name=name,
        before=text(before),
        after=text(after),
        before_exact=numbers.exact(before, unit),
        after_exact=numbers.exact(after, unit),
        change=numbers.change(before, after),
        factor=numbers.factor(before, after),
        tone=tone(before - after),
        share=min(1.0, after / before) if before else 1.0,
        headline=headline,
    )


def _scored(before: Score, after: Score) -> list[Measure]:
    rows = [
        Measure(
            name=numbers.headline_name(after),
            before=numbers.headline(before),
            after=numbers.headline(after),
            before_exact=f"{before.score:.6f}",
            after_exact=f"{after.score:.6f}",
            change=numbers.headline_change(before, after),
            factor="",
            tone=tone(after.score - before.score),
            share=max(0.0, min(1.0, after.score)),
            headline=True,
        )
    ]
    rows.extend(_further(*line) for line in _more(before, after) if line[1] is not None or line[2] is not None)
    return rows


def _further(name: str, before: float | None, after: float | None, better: int) -> Measure:
    """A line under the headline; `better` is 1 where more of it is good and -1 where less is."""
    text = _number if name.startswith("Mean") else numbers.percent
    difference, welcome = "", 0.0
    if before is not None and after is not None:
        points = numbers.signed(100 * (after - before), 2) + " points"
        difference = numbers.change(before, after) if name.startswith("Mean") else points
        welcome = (after - before) * better
    first, second = text(before), text(after)
    return Measure(name, first, second, first, second, difference, "", tone(welcome), 1.0, False)


def _more(before: Score, after: Score) -> list[tuple[str, float | None, float | None, int]]:
    """Further lines of a score: name, before, after, +1 where more is better."""
    if before.task == "classification" and after.task == "classification":
        return [
            ("Top-5", before.top5, after.top5, 1),
            ("Same prediction as uploaded", None, after.agreement, 1),
            ("Mean cross-entropy", before.loss, after.loss, -1),
        ]
    if before.task == "binary" and after.task == "binary":
        return [
            ("Precision", before.precision, after.precision, 1),
            ("Recall", before.recall, after.recall, 1),
            ("Same answer as uploaded", None, after.agreement, 1),
            ("Mean cross-entropy", before.loss, after.loss, -1),
        ]
    if before.task == "regression" and after.task == "regression":
        return [("Mean squared error", before.mse, after.mse, -1), ("Mean absolute error", before.mae, after.mae, -1)]
    if after.task == "fidelity":
        return [("Relative error", None, after.relative_error, -1)]
    return []


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def tone(gain: float) -> Tone:
    return "same" if gain == 0 else "good" if gain > 0 else "bad"
