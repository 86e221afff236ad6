"""Firmware from a program: compiled, linked, measured section by section, and run in an emulator.

In: a `Program`, samples, a processor and a toolchain. Out: `Image` and `Run`. Refused: what the compiler rejects or the
emulator does not finish (`device_check_failed`), and programs that the emulated board has no room for
(`device_memory_exceeded`).
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schemas.device import Processor
from schemas.errors import EspalierError
from worker.engine.embedded.program import Place, Program
from worker.engine.embedded.toolchain import Toolchain
from worker.engine.graph import Array

HERE = Path(__file__).parent
# Read on import: a confined process opens nothing but its own files.
HARNESS, LINKER = ((HERE / name).read_text(encoding="utf-8") for name in ("harness.c", "harness.ld"))

INSTRUCTIONS_PER_TICK = 40  # the boards count at 25 MHz, and an instruction takes one nanosecond
COMPILE_SECONDS, RUN_SECONDS = 300.0, 300.0
WORDS = 600
DTYPES = {
    "float": "f4", "double": "f8", "_Bool": "?", "bool": "?", "int8_t": "i1", "uint8_t": "u1", "int16_t": "i2",
    "uint16_t": "u2", "int32_t": "i4", "uint32_t": "u4", "int64_t": "i8", "uint64_t": "u8",
}  # fmt: skip


@dataclass(frozen=True)
class Board:
    """How to compile for a processor, and the emulated board that has it."""

    flags: tuple[str, ...]
    machine: str
    bulk: str


BOARDS: dict[Processor, Board] = {
    "cortex-m4": Board(
        ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), "mps2-an386", "0x21000000"
    ),
    "cortex-m7": Board(
        ("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard"), "mps2-an500", "0x60000000"
    ),
}
FLAGS = ("-std=gnu11", "-O2", "-ffunction-sections", "-fdata-sections", "-fno-math-errno")


@dataclass(frozen=True)
class Image:
    """The bytes of a linked firmware, without those of the harness. `program_bytes`: code, and what it pulls in from
    the compiler's libraries."""

    path: Path
    weights_bytes: int
    program_bytes: int
    arena_bytes: int
    compiler: str


@dataclass(frozen=True)
class Run:
    """What the firmware computed, sample by sample, and what that took."""

    outputs: tuple[tuple[Array, ...], ...]
    instructions: int
    stack_bytes: int


def build(program: Program, samples: int, processor: Processor, toolchain: Toolchain, folder: Path) -> Image:
    """Compile and link in a folder."""
    board = BOARDS[processor]
    texts = {
        "model.c": program.source,
        "harness.c": HARNESS,
        "places.c": _places(program, samples),
        "harness.ld": LINKER.replace("BULK_ORIGIN", board.bulk),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    compiler = str(toolchain.compiler)
    for name in ("model", "harness", "places"):
        _do([compiler, *board.flags, *FLAGS, "-w", "-c", f"{name}.c", "-o", f"{name}.o"], folder, COMPILE_SECONDS)
    objects = ["model.o", "harness.o", "places.o"]
    link = ["-nostartfiles", "--specs=nosys.specs", "-Wl,--gc-sections", "-T", "harness.ld", *objects, "-lm"]
    _do([compiler, *board.flags, "-w", *link, "-o", "firmware.elf"], folder, COMPILE_SECONDS)
    model, harness, image = (_sections(toolchain, folder, name) for name in ("model.o", "harness.o", "firmware.elf"))
    return Image(
        path=folder / "firmware.elf",
        weights_bytes=_sum(model, ".rodata"),
        program_bytes=_sum(image, ".text") - _sum(harness, ".text"),
        arena_bytes=_sum(model, ".bss") + _sum(model, ".data"),
        compiler=_do([compiler, "-dumpfullversion"], folder, COMPILE_SECONDS).strip(),
    )


def _places(program: Program, samples: int) -> str:
    """Where the harness finds inputs and outputs."""
    lines = ["#include <stdint.h>", "struct place { void *const *at; uint32_t bytes; };"]
    for role, places in (("input", program.inputs), ("output", program.outputs)):
        lines += [f"extern {one.value.kind} *const model_{role}_{number};" for number, one in enumerate(places)]
        rows = [
            f"    {{(void *const *)&model_{role}_{number}, {one.value.bytes}}}," for number, one in enumerate(places)
        ]
        lines += [f"const struct place harness_{role}s[] = {{", *rows, "};"]
        lines += [f"const uint32_t harness_{role}_count = {len(places)};"]
    return "\n".join([*lines, f"const uint32_t harness_samples = {samples};", ""])


def run(
    image: Image, program: Program, feeds: Sequence[Mapping[str, Array]], processor: Processor, toolchain: Toolchain
) -> Run:
    """Every sample through the emulated board. `feeds` name the inputs as the program does."""
    folder = image.path.parent
    with (folder / "samples.bin").open("wb") as file:
        for feed in feeds:
            for place in program.inputs:
                file.write(np.ascontiguousarray(feed[place.value.name], DTYPES[place.value.kind]).tobytes())
    command = [str(toolchain.emulator), "-M", BOARDS[processor].machine, "-nographic", "-monitor", "none"]
    command += ["-serial", "none", "-icount", "shift=0", "-accel", "tcg,tb-size=32"]
    _do([*command, "-semihosting", "-kernel", image.path.name], folder, RUN_SECONDS)
    figures = np.frombuffer((folder / "figures.bin").read_bytes(), "<u4").reshape(len(feeds), 2)
    raw = (folder / "results.bin").read_bytes()
    size = sum(place.value.bytes for place in program.outputs)
    outputs = tuple(_outputs(program.outputs, raw[at : at + size]) for at in range(0, len(feeds) * size, size))
    return Run(outputs, int(figures[:, 0].max()) * INSTRUCTIONS_PER_TICK, int(figures[:, 1].max()))


def _outputs(places: Sequence[Place], raw: bytes) -> tuple[Array, ...]:
    found = []
    for place in places:
        part, raw = raw[: place.value.bytes], raw[place.value.bytes :]
        found.append(np.frombuffer(part, DTYPES[place.value.kind]).reshape(place.value.dims))
    return tuple(found)


# ---- programs


def _do(command: list[str], folder: Path, seconds: float) -> str:
    """Run a program of the toolchain to its end, in the folder. A confined process may not kill what takes too long:
    there the worker ends all of it."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(  # noqa: S603  # the toolchain's own programs, on files of this folder
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
            env={"PATH": str(Path(command[0]).parent), "TMPDIR": str(folder), "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise EspalierError("device_check_failed", f"it had not finished after {seconds:.0f} s", where=name) from None
    except OSError as error:
        raise EspalierError("device_check_failed", f"it cannot be started: {error.strerror}", where=name) from None
    said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
    if done.returncode != 0 and ("overflowed by" in said or "no room is left" in said):
        raise EspalierError("device_memory_exceeded", said[-WORDS:], where=name)
    if done.returncode != 0:
        raise EspalierError("device_check_failed", f"exit code {done.returncode}: {said[-WORDS:]}", where=name)
    return done.stdout.decode(errors="replace")


def _sections(toolchain: Toolchain, folder: Path, name: str) -> dict[str, int]:
    """The sizes of an object's sections."""
    rows = (line.split() for line in _do([str(toolchain.size), "-A", name], folder, COMPILE_SECONDS).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 3 and row[0].startswith(".")}


def _sum(sections: Mapping[str, int], start: str) -> int:
    return sum(size for name, size in sections.items() if name == start or name.startswith(f"{start}."))
