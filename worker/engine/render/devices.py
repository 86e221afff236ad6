"""Devices as people read them: one row for each, a sentence for the one that was asked for.

In: a report. Out: `DeviceRow`s and a `TargetView`.
"""

from dataclasses import dataclass

from schemas.device import TARGETS, Compiled, Devices, Fit, OperatorSupport, TargetFit
from schemas.report import Report
from worker.engine.render import numbers


@dataclass(frozen=True)
class DeviceRow:
    name: str
    part: str
    core: str
    flash: str
    ram: str
    before: Fit
    after: Fit
    time_before: str
    time_after: str
    basis: str  # of the rate that the times come from


@dataclass(frozen=True)
class TargetView:
    """`obstacles`: operators of which there is something to say; `basis`: where its figures come from."""

    name: str
    fits: bool
    sentence: str
    basis: str
    obstacles: tuple[OperatorSupport, ...]


@dataclass(frozen=True)
class MemoryRow:
    name: str
    estimated: int
    measured: int
    parts: str


@dataclass(frozen=True)
class CompiledView:
    processor: str
    good: bool
    sentence: str
    rows: tuple[MemoryRow, ...]


def compiled_view(compiled: Compiled, target: TargetFit | None) -> CompiledView:
    """The firmware in a sentence and a table, or why there is none."""
    found, refused = compiled.figures, compiled.refused
    if found is None:
        assert refused is not None, "figures, or why there are none"
        where = f"{refused.where}: " if refused.where else ""
        said = f"{refused.title} ({refused.code}). {where}{refused.detail}. {refused.hint}"
        return CompiledView(compiled.processor, False, said, ())
    agreement = "agrees" if found.agrees else "does NOT agree"
    difference = f"{found.max_relative_difference:.1e}".replace("e-0", "e-")
    samples = f"{found.samples} sample{'' if found.samples == 1 else 's'}"
    sentence = (
        f"Run in an emulator on {samples}, it {agreement} with onnxruntime (relative difference {difference}), in "
        f"{numbers.count(found.instructions)} instructions each. Flash "
        f"{numbers.size(found.flash_bytes)}, RAM {numbers.size(found.ram_bytes)}; {found.compiler}."
    )
    holds = target is None or target.holds(found)
    if target is not None:
        sentence += f" That {'fits' if holds else 'does NOT fit'} {target.device}."
    rows = (
        MemoryRow(
            "Flash",
            found.estimated_flash_bytes,
            found.flash_bytes,
            f"{numbers.size(found.weights_bytes)} weights, {numbers.size(found.program_bytes)} program",
        ),
        MemoryRow(
            "RAM",
            found.estimated_ram_bytes,
            found.ram_bytes,
            f"{numbers.size(found.arena_bytes)} arena, {numbers.size(found.stack_bytes)} stack",
        ),
    )
    return CompiledView(compiled.processor, found.agrees and holds, sentence, rows)


def device_rows(devices: Devices) -> tuple[DeviceRow, ...]:
    return tuple(
        DeviceRow(
            name=one.device,
            part=TARGETS[one.device].part,
            core=TARGETS[one.device].core,
            flash=_memory(TARGETS[one.device].flash_bytes),
            ram=_memory(TARGETS[one.device].ram_bytes),
            before=one.before,
            after=one.after,
            time_before=_time(one.before),
            time_after=_time(one.after),
            basis=TARGETS[one.device].macs_per_cycle_basis,
        )
        for one in devices.profiles
    )


def target_view(report: Report) -> TargetView:
    target = report.devices.target
    assert target is not None, "the caller has looked"
    missing = [one.operator for one in target.operators if not one.supported]
    return TargetView(
        name=target.device,
        fits=target.after.fits and not missing,
        sentence=_sentence(report, missing),
        basis=_basis(target.device),
        obstacles=tuple(one for one in target.operators if one.reason),
    )


def _basis(name: str) -> str:
    """A device of one's own speaks for itself."""
    if name not in TARGETS:
        return ""
    device = TARGETS[name]
    return f"{device.part}. Memories: {device.source}. Rate of MACs: {device.macs_per_cycle_basis}"


def _sentence(report: Report, missing: list[str]) -> str:
    target, side = report.devices.target, report.after
    assert target is not None, "the caller has looked"
    if target.after.fits:
        became = "fits, and fitted before" if target.before.fits else "fits; the uploaded model did not"
    else:
        became = f"does not fit ({'; '.join(target.after.why)})"
    program, stack = (f" and the {name} some {_memory(size)}" if size else "" for name, size in (
        ("program", target.program_bytes), ("stack", target.stack_bytes)
    ))  # fmt: skip
    text = (
        f"{became}. Weights take {_memory(side.flash_bytes)}{program} of {_memory(target.flash_bytes)} flash, "
        f"activations {_memory(side.peak_ram_bytes)}{stack} of {_memory(target.ram_bytes)} RAM."
    )
    if missing:
        text += f" Not supported there: {', '.join(missing)}."
    if target.after.speed:
        text += f" Estimated time: {_time(target.before)} before, {_time(target.after)} after."
    return text


def _memory(size: int | None) -> str:
    return "external" if size is None else numbers.size(size)


def _time(fit: Fit) -> str:
    return "–" if fit.milliseconds is None else numbers.milliseconds(fit.milliseconds)
