"""What a finished job did, as a few lines of text for a terminal or a build log.

In: a `Report`, a `Job` list, the criteria or the devices. Out: text. Nothing is refused.
"""

import json
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from schemas.criteria import CRITERIA, CriterionBase
from schemas.device import TARGETS, Compiled, DeviceProfile, Devices, TargetFit
from schemas.inspection import Inspection
from schemas.job import Job, Verdict
from schemas.report import Report, Score, SearchReport, Side
from schemas.request import Constraints
from schemas.sweep_report import Spread, SweepPoint, SweepReport

COLUMNS = ("", "before", "after", "change")


def report_table(report: Report) -> str:
    """Before and after, then the proof and the verdict."""
    rows = [COLUMNS, *_sizes(report.before, report.after), *_accuracy(report.before.accuracy, report.after.accuracy)]
    lines = _aligned(rows)
    proof = report.exactness
    lines += [
        "",
        f"exactness: {'passed' if proof.passed else 'FAILED'}, largest relative difference "
        f"{proof.max_relative_difference:.2g} (tolerance {proof.tolerance:.0e}, {proof.samples} samples)",
    ]
    lines.append(f"data: {report.data.how}")
    lines += _devices(report.devices)
    lines += _way(report)
    lines += [f"warning: {warning}" for warning in report.warnings]
    return "\n".join([*lines, *_verdict(report.verdict, report.options.constraints, "the constraints hold")])


def _verdict(verdict: Verdict, constraints: Constraints, held: str) -> list[str]:
    """Nothing holds where nothing was asked for."""
    if verdict.met:
        return [f"verdict: {held if constraints != Constraints() else 'no constraints given'}"]
    return [f"verdict: NOT met: {sentence}" for sentence in verdict.broken]


def _way(report: Report) -> list[str]:
    """How the amount was found, what distilling and quantising gave, and what zeros take in each form of storage."""
    lines = [] if report.search is None else [_search(report.search)]
    for step in report.steps:
        score = "" if step.accuracy is None else f", score {step.accuracy.score:.4f}"
        lines.append(f"{step.step}: {step.file_bytes:,} bytes{score}; {step.detail}")
    return [*lines, *(f"{one.form} storage: {one.file_bytes:,} bytes in {one.file}" for one in report.storage)]


def _search(found: SearchReport) -> str:
    points = f"{len(found.points)} point{'' if len(found.points) == 1 else 's'}"
    return f"search: of {points}, {found.judged}, {found.because}"


def _devices(devices: Devices) -> list[str]:
    """The device that was asked for, and how many others the result fits."""
    holding = [one.device for one in devices.profiles if one.after.fits]
    lines = [f"fits: {', '.join(holding) or 'no known device'} (weights, activations and an estimate of the program)"]
    lines += _compiled(devices.compiled, devices.target) if devices.compiled is not None else []
    if devices.target is None:
        return lines
    target = devices.target
    lines.append(f"target {target.device}: {'fits' if target.after.fits else 'does NOT fit'}")
    lines += [f"  {why}" for why in target.after.why]
    lines += [f"  {one.operator} is not supported: {one.reason}" for one in target.operators if not one.supported]
    speeds = zip(target.before.speed, target.after.speed, strict=True)
    lines += [
        f"  {old.arithmetic}: about {old.milliseconds:.3g} ms before, {new.milliseconds:.3g} ms after (estimate)"
        for old, new in speeds
    ]
    return lines


def _compiled(compiled: Compiled, target: TargetFit | None) -> list[str]:
    """What the compiled check found, or why it found nothing."""
    found = compiled.figures
    if found is None:
        why = compiled.refused
        assert why is not None, "figures, or why there are none"
        return [f"compiled for {compiled.processor}: no: {why.code}: {why.detail}", f"  try: {why.hint}"]
    agrees = "agrees" if found.agrees else "does NOT agree"
    holds = "" if target is None else f": {'fits' if target.holds(found) else 'does NOT fit'} {target.device}"
    return [
        f"compiled for {compiled.processor}: {agrees} with onnxruntime ({found.max_relative_difference:.2g}), "
        f"{found.instructions:,} instructions",
        f"  flash {found.flash_bytes:,} bytes ({found.weights_bytes:,} weights, {found.program_bytes:,} program), "
        f"RAM {found.ram_bytes:,} ({found.arena_bytes:,} arena, {found.stack_bytes:,} stack){holds}",
    ]


def _sizes(before: Side, after: Side) -> list[tuple[str, ...]]:
    fields = (
        ("parameters", before.parameters, after.parameters),
        ("nonzero", before.nonzero_parameters, after.nonzero_parameters),
        ("MACs", before.macs, after.macs),
        ("file bytes", before.file_bytes, after.file_bytes),
        ("gzip bytes", before.gzip_bytes, after.gzip_bytes),
        ("flash bytes (weights)", before.flash_bytes, after.flash_bytes),
        ("peak RAM bytes", before.peak_ram_bytes, after.peak_ram_bytes),
    )
    rows = [(name, f"{old:,}", f"{new:,}", _change(old, new)) for name, old, new in fields]
    latency = (f"{before.latency_ms:.3f}", f"{after.latency_ms:.3f}", _change(before.latency_ms, after.latency_ms))
    return [*rows, ("latency ms (one thread)", *latency)]


def _accuracy(before: Score | None, after: Score | None) -> list[tuple[str, ...]]:
    if before is None or after is None:
        return [("accuracy", "-", "-", "no data to judge with")]
    name = {"classification": "accuracy", "binary": "accuracy", "regression": "R squared", "fidelity": "fidelity"}
    points = (after.score - before.score) * (1 if after.task == "regression" else 100)
    unit = "" if after.task == "regression" else " points"
    change = f"{points:+.2f}{unit} on {after.samples} samples"
    return [(name[after.task], f"{before.score:.4f}", f"{after.score:.4f}", change)]


def _change(before: float, after: float) -> str:
    return f"{after / before - 1:+.1%}" if before else "-"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return [
        f"{name:<{widths[0]}}  {old:>{widths[1]}}  {new:>{widths[2]}}  {change}".rstrip()
        for name, old, new, change in rows
    ]


ROWS_SHOWN = 60


def inspection_table(found: Inspection) -> str:
    """The groups, what stays and why, and how much of the model is within reach."""
    model, seen = found.model, found.coverage
    share = seen.prunable_parameters / seen.parameters if seen.parameters else 0.0
    lines = [
        f"{model.name}: {model.parameters:,} parameters, {model.macs:,} MACs, {model.operators:,} operators",
        f"{seen.groups:,} groups of {seen.units:,} units; {share:.1%} of the parameters lie where units can go",
    ]
    groups = [
        (
            one.name if one.in_scope else f"{one.name} (not in scope)",
            f"{one.units:,}",
            f"{one.parameters_per_unit:,}",
            f"{one.macs_per_unit:,}",
            ", ".join(one.consumers),
        )
        for one in found.groups
    ]
    pins = [
        (one.where, f"{one.parameters:,}", one.message + (f" [opened by {one.opened_by}]" if one.opened_by else ""))
        for one in found.pins
    ]
    rest = [(one.reason, f"{one.parameters:,}", f"{one.constants:,}", one.example) for one in found.untouched]
    other = [(one.operator, f"{one.nodes:,}", one.example) for one in found.fallback]
    lines += _section(("GROUP", "UNITS", "PARAMETERS/UNIT", "MACS/UNIT", "READ BY"), groups)
    lines += _section(("STAYS", "PARAMETERS", "WHY"), pins)
    lines += _section(("IN NO GROUP", "PARAMETERS", "WEIGHTS", "FOR EXAMPLE"), rest)
    lines += _section(("RUN IN ONNXRUNTIME", "NODES", "FOR EXAMPLE"), other)
    return "\n".join(lines)


def sweep_table(report: SweepReport) -> str:
    """A line for each point, then which one is the best and why."""
    before = report.before
    head = ("POINT", "SCORE", "CHANGE", "LOSS", "PARAMETERS", "MACS", "FILE BYTES", "")
    accuracy = before.accuracy
    uploaded = (
        "as uploaded",
        f"{accuracy.score:.4f}" if accuracy else "-",
        "",
        f"{accuracy.loss:.4g}" if accuracy and accuracy.loss is not None else "-",
        f"{before.parameters:,}",
        f"{before.macs:,}",
        f"{before.file_bytes:,}",
        "",
    )
    lines = _section(head, [uploaded, *(_point(point, report.best) for point in report.points)])[1:]
    lines += ["", report.best_because, f"data: {report.data.how}"]
    lines += [f"warning: {warning}" for warning in report.warnings]
    asked = next((one for point in report.points if (one := point.options.constraints) != Constraints()), Constraints())
    return "\n".join([*lines, *_verdict(report.verdict, asked, "a point meets the constraints")])


def _point(point: SweepPoint, best: int | None) -> tuple[str, ...]:
    notes = [
        "best" if point.number == best else "",
        point.failure.code if point.failure else "" if point.meets else "constraint not met",
        point.artifact or "",
    ]
    return (
        f"{point.number}. {point.label}",
        _spread(point.score, ".4f"),
        _spread(point.score_change, "+.4f"),
        _spread(point.loss, ".4g"),
        _spread(point.parameters, ",.0f"),
        _spread(point.macs, ",.0f"),
        _spread(point.file_bytes, ",.0f"),
        ", ".join(note for note in notes if note),
    )


def _spread(found: Spread | None, form: str) -> str:
    """A mean and, of several seeds, the deviation."""
    if found is None:
        return "-"
    return f"{found.mean:{form}}" + (f" ±{found.std:{form.lstrip('+')}}" if found.std else "")


def _section(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table under an empty line: texts on the left, numbers on the right; the last column as long as it is."""
    if not rows:
        return []
    shown = [head, *rows[:ROWS_SHOWN]]
    widths = [max(len(row[i]) for row in shown) for i in range(len(head))]
    lines = [""]
    for row in shown:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=False)),
        ]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return lines + ([f"{len(rows) - ROWS_SHOWN} more: --json shows all"] if len(rows) > ROWS_SHOWN else [])


def job_lines(jobs: Iterable[Job]) -> list[str]:
    lines = [f"{'ID':<32}  {'KIND':<8}  {'STATE':<9}  {'CREATED (UTC)':<19}  MODEL"]
    for job in jobs:
        created = datetime.fromtimestamp(job.created_at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        stage = f"  {job.progress.fraction:.0%} {job.progress.stage}" if job.state == "running" else ""
        trouble = f"  {job.failure.code}" if job.failure else ""
        model = job.inputs.model.name or job.inputs.model.blob
        lines.append(f"{job.id:<32}  {job.kind:<8}  {job.state:<9}  {created}  {model}{stage}{trouble}")
    return lines


def criteria_text(width: int) -> str:
    return "\n\n".join(_criterion(name, criterion, width) for name, criterion in CRITERIA.items())


def _criterion(name: str, criterion: type[CriterionBase], width: int) -> str:
    facts = (
        criterion.summary,
        f"Use when: {criterion.use_when}",
        f"Cost: {criterion.cost}",
        f"Paper: {criterion.paper}",
    )
    options = [
        f"criterion.{option} = {json.dumps(field.default)}: {field.description}"
        for option, field in criterion.model_fields.items()
        if option != "name"
    ]
    lines = [name, *(_indented(fact, 2, width) for fact in facts), "  Options:"]
    return "\n".join([*lines, *(_indented(option, 4, width) for option in options)])


def targets_text(width: int) -> str:
    return "\n\n".join(_target(one, width) for one in TARGETS.values())


def _target(device: DeviceProfile, width: int) -> str:
    flash = "external storage" if device.flash_bytes is None else f"{device.flash_bytes:,} bytes of flash"
    rates = device.macs_per_cycle
    facts = (
        f"{device.part}: {device.core}, {device.clock_hz / 1e6:g} MHz, {flash}, {device.ram_bytes:,} bytes of RAM",
        f"MACs a cycle: {rates.fp32:g} in fp32, {rates.int8:g} in int8. {device.macs_per_cycle_basis}",
        *device.notes,
        f"Source: {device.source}",
    )
    return "\n".join([device.name, *(_indented(fact, 2, width) for fact in facts)])


def _indented(text: str, columns: int, width: int) -> str:
    return textwrap.fill(text, width, initial_indent=" " * columns, subsequent_indent=" " * (columns + 2))
