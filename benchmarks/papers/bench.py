"""What the five have in common: jobs on files as a user would send them, results on disk, plots.

In: a network's file, samples, options. Out: reports of the engine. Nothing is computed here.
"""

import json
import os
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import mean, pstdev

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from numpy.typing import NDArray

from benchmarks.folder import DATA
from schemas.job import Progress
from schemas.report import Report
from schemas.request import parse_options
from schemas.sweep import parse_comparison, parse_sweep
from schemas.sweep_report import SweepReport
from worker.engine.run import InputFile, Inputs, Limits, prune
from worker.engine.sweep import sweep

OUT = Path("out/papers")
Arrays = Mapping[str, NDArray[np.generic]]
Options = Mapping[str, object]


@dataclass(frozen=True)
class Subject:
    """A network, the samples it is pruned with and those it is judged with; how it was trained."""

    model: Path
    evaluation: Arrays
    calibration: Arrays = field(default_factory=dict)
    history: Path | None = None

    def prune(self, options: Options) -> Report:
        with tempfile.TemporaryDirectory() as folder:
            inputs = self._inputs(Path(folder))
            return prune(parse_options(options), inputs, Path(folder), _limits(), _quietly)

    def sweep(self, options: Options) -> SweepReport:
        """Of `keep` nothing: only the figures are wanted."""
        with tempfile.TemporaryDirectory() as folder:
            inputs = self._inputs(Path(folder))
            return sweep(parse_sweep({"keep": "none", **options}), inputs, Path(folder), _limits(), _quietly)

    def compare(self, options: Options) -> SweepReport:
        """The same of criteria beside each other."""
        with tempfile.TemporaryDirectory() as folder:
            inputs = self._inputs(Path(folder))
            return sweep(parse_comparison({"keep": "none", **options}), inputs, Path(folder), _limits(), _quietly)

    def _inputs(self, folder: Path) -> Inputs:
        data: dict[str, InputFile | None] = {"calibration": None, "evaluation": None}
        for name, arrays in (("calibration", self.calibration), ("evaluation", self.evaluation)):
            if arrays:
                np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]  # numpy's own keywords are none of ours
                data[name] = input_file(folder / f"{name}.npz")
        history = input_file(self.history) if self.history else None
        return Inputs(input_file(self.model), {}, data["calibration"], data["evaluation"], history)


def input_file(path: Path) -> InputFile:
    content = path.read_bytes()
    return InputFile(path, sha256(content).hexdigest(), path.name, len(content))


def _limits() -> Limits:
    return Limits(threads=len(os.sched_getaffinity(0)), max_data_bytes=1 << 32)


def _quietly(progress: Progress) -> None:
    """The tables are the progress."""


def images(name: str, part: str, count: int | None = None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows of pixels in 0..1 and labels, of mnist or fashion_mnist."""
    with np.load(DATA / f"{name}.npz") as file:
        x = file[f"x_{part}"][:count].astype(np.float32) / np.float32(255)
        return x.reshape(len(x), -1), file[f"y_{part}"][:count].astype(np.int64)


def spread(figures: Sequence[float], digits: int = 4) -> str:
    """Mean and standard deviation."""
    return f"{mean(figures):.{digits}f} ±{pstdev(figures):.{digits}f}"


def note(text: str) -> str:
    """A paragraph, as wide as the tables."""
    return textwrap.fill(" ".join(text.split()), width=110)


# ---- what is left on disk


@dataclass(frozen=True)
class Curve:
    """One line of a plot; `spread` is drawn around it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    dashed: bool = False


def keep(paper: str, figures: object) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{paper}.json").write_text(json.dumps(figures, indent=1))


def plot(name: str, title: str, x: str, y: str, curves: Sequence[Curve]) -> None:
    """As .png and as .svg."""
    OUT.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for curve in curves:
        (line,) = axes.plot(curve.x, curve.y, "--" if curve.dashed else "-", marker=".", label=curve.label)
        if curve.spread:
            low, high = (np.add(curve.y, np.multiply(sign, curve.spread)) for sign in (-1, 1))
            axes.fill_between(curve.x, low, high, color=line.get_color(), alpha=0.15)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    for suffix in ("png", "svg"):
        figure.savefig(OUT / f"{name}.{suffix}", dpi=120)
    plt.close(figure)
