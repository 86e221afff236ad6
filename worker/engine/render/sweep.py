"""A sweep or a comparison for people: one HTML file without scripts, its curves drawn inside, and Markdown.

In: a `SweepReport`. Out: text. Names come from models and callers that nobody vouches for: everything is escaped.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from schemas.request import Constraints
from schemas.sweep_report import Spread, SweepPoint, SweepReport
from worker.engine.render import html, markdown, numbers
from worker.engine.render.plot import Line, plot

HERE = Path(__file__).parent
NAMES = {"sweep": "Sweep", "compare": "Comparison"}

html.SOURCES["sweep.html.j2"] = (HERE / "sweep.html.j2").read_text(encoding="utf-8")
PAGE = html.ENVIRONMENT.get_template("sweep.html.j2")
SUMMARY = markdown.ENVIRONMENT.from_string((HERE / "sweep.md.j2").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Row:
    """One point as a line of the table."""

    point: SweepPoint
    best: bool
    series: str
    score: str
    change: str
    loss: str
    units: str
    parameters: str
    macs: str
    size: str
    state: str


def render_sweep_html(report: SweepReport) -> str:
    """The whole page."""
    return PAGE.render(
        css=Markup(html.SOURCES["report.css"]),  # noqa: S704  # our own file, from this folder
        report=report,
        title=_title(report),
        rows=[_row(report, point) for point in report.points],
        plots=curves(report),
        surfaces=surfaces(report),
        score_name=_score_name(report),
        uploaded=numbers.headline(report.before.accuracy) if report.before.accuracy else "–",
        constrained=any(point.options.constraints != Constraints() for point in report.points),
        options=json.dumps(report.options.model_dump(mode="json", exclude_defaults=True), indent=2, ensure_ascii=False),
    )


def render_sweep_markdown(report: SweepReport) -> str:
    """The same, short enough for a comment."""
    rows = [_row(report, point) for point in report.points]
    return SUMMARY.render(report=report, title=_title(report), rows=rows, score_name=_score_name(report))


def _title(report: SweepReport) -> str:
    count = len(report.points)
    title = f"{NAMES[report.kind]} of {count} point{'' if count == 1 else 's'}"
    if report.best is None:
        return title
    point = next(one for one in report.points if one.number == report.best)
    fewer = _less(point.parameters, report.before.parameters)
    return f"{title}; best: {point.label}{f', {fewer} parameters' if fewer else ''}"


def _less(after: Spread | None, before: int) -> str:
    return numbers.change(before, after.mean) if after is not None and before and after.mean != before else ""


def _score_name(report: SweepReport) -> str:
    return numbers.headline_name(report.before.accuracy) if report.before.accuracy else "score"


def _row(report: SweepReport, point: SweepPoint) -> Row:
    regression = report.before.accuracy is not None and report.before.accuracy.task == "regression"
    share = (lambda value: f"{value:.4f}") if regression else numbers.percent
    points = (lambda value: numbers.signed(value, 4)) if regression else (lambda value: numbers.signed(100 * value, 2))
    unstructured = point.options.criterion.prunes_weights()
    kept = point.nonzero_parameters if unstructured else point.parameters
    before = report.before.nonzero_parameters if unstructured else report.before.parameters
    state = point.failure.code if point.failure else "" if point.meets else "constraint not met"
    return Row(
        point=point,
        best=point.number == report.best,
        series=point.series,
        score=_pair(point.score, share),
        change=_pair(point.score_change, points),
        loss=_pair(point.loss, lambda value: f"{value:.4g}", lambda value: f"{value:.2g}"),
        units=_pair(point.units_removed, numbers.count, lambda value: f"{value:.2g}"),
        parameters=_with_change(kept, before, numbers.count),
        macs=_with_change(point.macs, report.before.macs, numbers.count),
        size=_with_change(point.file_bytes, report.before.file_bytes, numbers.size),
        state=state,
    )


def _pair(spread: Spread | None, text: Callable[[float], str], rough: Callable[[float], str] | None = None) -> str:
    """A mean, and how far the seeds lie from it."""
    if spread is None:
        return "–"
    return text(spread.mean) + (f" ± {(rough or text)(spread.std).lstrip('+')}" if spread.std else "")


def _with_change(after: Spread | None, before: int, text: Callable[[float], str]) -> str:
    return "–" if after is None else f"{text(after.mean)} ({numbers.change(before, after.mean)})"


def curves(report: SweepReport) -> tuple[Markup, ...]:
    """Score and loss against the share of parameters that went."""
    unstructured = all(point.options.criterion.prunes_weights() for point in report.points)
    what = "nonzero parameters" if unstructured else "parameters"
    x_name, drawn = f"{what} removed, %", []
    before = report.before.accuracy
    for name, of, level in (
        (_score_name(report), "score", before.score if before else None),
        ("Loss", "loss", before.loss if before else None),
    ):
        lines = [Line(series, _places(report, series, of, unstructured)) for series in _series(report)]
        if any(line.points for line in lines):
            drawn.append(plot(f"{name} against size", x_name, name, lines, level))
    return tuple(drawn)


def surfaces(report: SweepReport) -> tuple[Markup, ...]:
    """Loss while the first units are switched off, a drawing for each criterion; then what all of them lose."""
    found = report.surface
    if found is None:
        return ()
    drawn = []
    for series in dict.fromkeys(one.series for one in found.units):
        lines = []
        for one in found.units:
            if one.series == series:
                places = zip(found.gates, one.loss, strict=True)
                joined = tuple((1 - gate, loss, 0.0) for gate, loss in places if loss is not None)
                lines.append(Line(f"{one.rank}. unit {one.unit} of {one.group}", joined))
        if any(line.points for line in lines):
            drawn.append(plot(f"Switching units off: {series}", "share switched off", "loss", lines))
    for name, of in (("Loss", "loss"), (_score_name(report), "score")):
        lines = []
        for row in found.degradation:
            figures = zip(row.removed, getattr(row, of), strict=True)
            lines.append(Line(row.series, tuple((float(n), y, 0.0) for n, y in figures if y is not None)))
        if any(line.points for line in lines):
            drawn.append(plot(f"{name} as units go", "units masked", name, lines))
    return tuple(drawn)


def _series(report: SweepReport) -> tuple[str, ...]:
    return tuple(dict.fromkeys(point.series for point in report.points))


def _places(report: SweepReport, series: str, of: str, unstructured: bool) -> tuple[tuple[float, float, float], ...]:
    before = report.before.nonzero_parameters if unstructured else report.before.parameters
    places = []
    for point in report.points:
        kept = point.nonzero_parameters if unstructured else point.parameters
        figure: Spread | None = getattr(point, of)
        if point.series == series and kept is not None and figure is not None and before:
            places.append((100 * (1 - kept.mean / before), figure.mean, figure.std))
    return tuple(sorted(places))
