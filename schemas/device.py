"""Devices to prune for, and what a report says of each: does the model fit, how fast might it be, what is in the way.

In: devices.toml, which lies beside this file and is read once, on import. Out: `TARGETS`, and the parts of a report.
Refused: a name that is not there (`target_named`), saying which is near.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.errors import Failure, nearest

Positive = Annotated[int, Field(gt=0, lt=2**63)]
Processor = Literal["cortex-m4", "cortex-m7"]
PositiveRate = Annotated[float, Field(gt=0)]


class DevicePart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Rates(DevicePart):
    """Multiply-accumulates that tuned kernels sustain in one cycle of a device."""

    fp32: PositiveRate
    int8: PositiveRate


class Program(DevicePart):
    """Room beside weights and activations, estimated."""

    base_bytes: int = Field(default=0, description="Flash for any program.")
    operator_bytes: int = Field(default=0, description="Flash for each operator of the model.")
    stack_bytes: int = Field(default=0, description="RAM.")


class Runtime(DevicePart):
    """How a model runs on a kind of device, and which operators that excludes."""

    title: str
    program: Program = Field(default=Program(), description="Zeros where that is nothing beside what is there.")
    program_basis: str = ""
    cannot: dict[str, str] = Field(description="Operators that it does not run, and why.")
    accelerates: tuple[str, ...] = Field(default=(), description="Operators that an accelerator takes over, as int8.")
    accelerates_source: str = ""


class DeviceProfile(DevicePart):
    """One device. `flash_bytes` is null where storage is external."""

    name: str
    part: str = Field(description="The exact part that the figures are of.")
    core: str
    flash_bytes: Positive | None = None
    ram_bytes: Positive = Field(description="What a program can use as one block.")
    clock_hz: Positive
    macs_per_cycle: Rates
    macs_per_cycle_basis: str = Field(description="Where the rates come from, and which of them are estimates.")
    runtime: str
    notes: tuple[str, ...] = ()
    source: str = Field(description="The document that the memories and the clock are from.")


class TargetList(DevicePart):
    """Every device, as GET /targets gives them."""

    targets: tuple[DeviceProfile, ...]


class CustomTarget(DevicePart):
    """A device of one's own. Without a clock and a rate no time is estimated."""

    flash_bytes: Positive = Field(description="What weights and program have room in.")
    ram_bytes: Positive = Field(description="What activations have room in, as one block.")
    clock_hz: Positive | None = Field(default=None, description="With a rate, the report estimates a time.")
    macs_per_cycle: PositiveRate | None = Field(default=None, description="Multiply-accumulates a cycle, sustained.")


# ---- in a report


class Speed(DevicePart):
    """An estimate: MACs over the rate that tuned kernels sustain, without memory stalls and without other operators."""

    arithmetic: Literal["fp32", "int8"]
    cycles: int
    milliseconds: float


class Fit(DevicePart):
    """One model on one device, with the program that runs it. An operating system comes on top of both memories."""

    fits: bool
    why: tuple[str, ...] = Field(description="What is missing, by how many bytes; empty where it fits.")
    speed: tuple[Speed, ...] = Field(description="fp32, and int8 where the model is quantised.")

    @property
    def milliseconds(self) -> float | None:
        """The estimate in the arithmetic that the model is in."""
        return self.speed[-1].milliseconds if self.speed else None


class DeviceFit(DevicePart):
    """Both models on one device."""

    device: str
    before: Fit
    after: Fit


class OperatorSupport(DevicePart):
    operator: str
    nodes: int
    supported: bool
    reason: str = Field(description="Why not, or what takes it over; empty where there is nothing to say.")


class CompiledFigures(DevicePart):
    """The pruned model as firmware: measured in the linked image and while it ran. Estimates are the report's."""

    compiler: str
    weights_bytes: int = Field(description="Constants in flash.")
    program_bytes: int = Field(description="Code in flash, with what it needs of the compiler's libraries.")
    arena_bytes: int = Field(description="Memory for inputs, outputs and activations.")
    stack_bytes: int = Field(description="The most that a run used.")
    estimated_flash_bytes: int
    estimated_ram_bytes: int
    instructions: int = Field(description="For one inference, counted by the emulator.")
    samples: int
    max_relative_difference: float = Field(description="From onnxruntime, over all samples and outputs.")
    agrees: bool = Field(description="Whether that is below the tolerance of 1e-4.")

    @property
    def flash_bytes(self) -> int:
        return self.weights_bytes + self.program_bytes

    @property
    def ram_bytes(self) -> int:
        return self.arena_bytes + self.stack_bytes


class TargetFit(DeviceFit):
    """The device that was asked for, with every operator of the model."""

    flash_bytes: int | None
    ram_bytes: int
    program_bytes: int = Field(default=0, description="Estimated: flash that the program takes beside the weights.")
    stack_bytes: int = Field(default=0, description="Estimated: RAM that it takes beside the activations.")
    operators: tuple[OperatorSupport, ...]

    def holds(self, found: CompiledFigures) -> bool:
        """Whether the firmware fits, as it was measured."""
        return (self.flash_bytes is None or found.flash_bytes <= self.flash_bytes) and found.ram_bytes <= self.ram_bytes


class Compiled(DevicePart):
    """What `options.verify_on` asked for: figures, or why there are none."""

    processor: Processor
    figures: CompiledFigures | None
    refused: Failure | None


class Devices(DevicePart):
    """Where the models would run."""

    target: TargetFit | None = Field(description="None where `options.target` names none.")
    profiles: tuple[DeviceFit, ...] = Field(description="Every device of GET /targets.")
    compiled: Compiled | None = Field(default=None, description="None where `options.verify_on` is not given.")


# ---- the table


class Catalogue(DevicePart):
    """What devices.toml holds."""

    runtimes: dict[str, Runtime]
    targets: dict[str, DeviceProfile]


def read(path: Path) -> Catalogue:
    """The devices of a file; each table's key is the device's name."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    catalogue = Catalogue(
        runtimes=found["runtimes"],
        targets={name: DeviceProfile(name=name, **table) for name, table in found["devices"].items()},
    )
    strangers = {one.runtime for one in catalogue.targets.values()} - set(catalogue.runtimes)
    if strangers:
        raise ValueError(f"{path.name}: no such runtime: {', '.join(sorted(strangers))}")
    return catalogue


# Read on import: a job's confined process opens nothing but its own files.
CATALOGUE = read(Path(__file__).with_name("devices.toml"))
TARGETS = CATALOGUE.targets
RUNTIMES = CATALOGUE.runtimes


def target_named(name: str) -> DeviceProfile:
    """The profile of that name. Raises ValueError, naming the nearest."""
    if name not in TARGETS:
        raise ValueError(f"no device is called {name[:100]!r}; {nearest(name[:100], tuple(TARGETS))}")
    return TARGETS[name]
