"""The programs that turn C into a measured, running firmware: the compiler for Cortex-M, its `size`, and an emulator.

In: PATH. Out: a `Toolchain`, which also names what a confined process must be let run and read. Refused
(`toolchain_missing`): a program or the generator that is not installed, with the command that installs it.
"""

import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import EspalierError

COMPILER, SIZE, EMULATOR = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
PACKAGES = {
    COMPILER: "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    SIZE: "binutils-arm-none-eabi",
    EMULATOR: "qemu-system-arm",
}
GENERATOR = "emx_onnx_cgen"
# What the compiler starts in turn.
PARTS = ("cc1", "as", "collect2", "ld")
LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
READ = ("/usr/share/qemu", "/usr/share/seabios", "/etc/alternatives", "/usr/arm-none-eabi", "/usr/lib/arm-none-eabi")


@dataclass(frozen=True)
class Toolchain:
    """`programs`: every file that is run; `folders`: what they read."""

    compiler: Path
    size: Path
    emulator: Path
    programs: tuple[Path, ...]
    folders: tuple[Path, ...]


def find(path: str | None = None) -> Toolchain:
    """The toolchain on PATH, or on the path given."""
    if importlib.util.find_spec(GENERATOR) is None:
        raise EspalierError(
            "toolchain_missing",
            "the generator of C is not installed",
            where="emx-onnx-cgen",
            hint="Where the worker runs: pip install 'espalier[firmware]'",
        )
    found = {name: shutil.which(name, path=path) for name in PACKAGES}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        raise EspalierError(
            "toolchain_missing",
            f"not on the worker's PATH: {', '.join(missing)}",
            where=missing[0],
            hint=f"On Debian: apt install {' '.join(dict.fromkeys(PACKAGES[name] for name in missing))}",
        )
    compiler, size, emulator = (Path(str(found[name])) for name in (COMPILER, SIZE, EMULATOR))
    parts = [Path(_ask(compiler, f"-print-prog-name={part}")) for part in PARTS]
    library = Path(_ask(compiler, "-print-file-name=libm.a"))
    if not library.is_file():
        raise EspalierError(
            "toolchain_missing",
            "the compiler has no C library",
            where=COMPILER,
            hint="On Debian: apt install libnewlib-arm-none-eabi",
        )
    programs = [compiler, size, emulator, *parts, *(Path(one) for one in LOADERS)]
    there = [one.resolve() for one in programs if one.exists()]
    own = [parts[0].resolve().parent, library.resolve().parent, emulator.resolve().parent.parent / "share/qemu"]
    folders = [one for one in (*own, *_headers(compiler), *map(Path, READ)) if one.is_dir()]
    return Toolchain(compiler, size, emulator, tuple(dict.fromkeys(there)), tuple(dict.fromkeys(folders)))


def _headers(compiler: Path) -> list[Path]:
    """Where it looks for headers: indented lines of what it says of itself."""
    said = _run(compiler, "-E", "-v", "-xc", os.devnull).stderr.splitlines()
    return [Path(line.strip()).resolve() for line in said if line.startswith(" /")]


def _ask(compiler: Path, question: str) -> str:
    return _run(compiler, question).stdout.strip()


def _run(compiler: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603  # the compiler found on PATH, without anything of a user's
        [str(compiler), *arguments], capture_output=True, text=True, check=True, env={"PATH": os.defpath}
    )
