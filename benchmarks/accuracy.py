"""What pruning without training costs in accuracy: `python -m benchmarks.accuracy [--part NAME] [--quick]`, or
`make bench-accuracy`.

Parts: `prune` takes real networks through the engine by `obs` and by `magnitude`, with every compensation, to the same
amounts, and prints accuracies over all test samples, times and memory; then, for one selection, the error of every
layer on held-back samples as it is left by `none` and by `reconstruct`. `errors` sets `project` between both, layer by
layer, and does so over networks of all kinds; `rivals` sets other pruners beside that, `distill` and `int8` are what
may follow, `device` a network for a part that it does not fit, `cost` what a whole job takes. Without --part each runs
in a process of its own, and says how long it took: `distill` alone trains for half an hour, and shows with --seconds
what more time gives. In: ESPALIER_DATA (default ../shared/data). Out: tables. Exit code 1 where a claim is missed: an
accuracy falls by more than its goal, a fitted layer is worse than as it was.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from benchmarks.accuracy_data import chosen, material
from benchmarks.accuracy_device import costed, fitted
from benchmarks.accuracy_errors import errors
from benchmarks.accuracy_finish import distilled, rounded
from benchmarks.accuracy_job import Done, job, lost, points
from benchmarks.accuracy_rivals import beaten
from benchmarks.folder import needed
from schemas.report import ClassificationScore, Report

WAYS = (
    ("obs", "reconstruct"),
    ("magnitude", "reconstruct"),
    ("obs", "project"),
    ("obs", "none"),
    ("magnitude", "none"),
)


@dataclass(frozen=True)
class Row:
    """One network and one amount. `goal`: the most points that `obs` with `reconstruct` may lose."""

    model: str
    data: str
    amount: dict[str, float]
    goal: float
    effort: str = "usual"


ROWS = (
    Row("resnet56_cifar10.onnx", "cifar", {"keep_macs": 0.75}, 0.3),
    Row("resnet56_cifar10.onnx", "cifar", {"keep_macs": 0.5}, 1.2),
    Row("resnet56_cifar10.onnx", "cifar", {"keep_macs": 1 / 2.57}, 3.0, "thorough"),
    Row("resnet56_cifar10_bn.onnx", "cifar", {"keep_macs": 0.5}, 1.2),
    Row("resnet20_cifar10.onnx", "cifar", {"keep_macs": 0.5}, 4.0),
    Row("seeds/mlp_fashion.onnx", "fashion_mnist", {"remove_units": 0.8}, 0.3),
    Row("seeds/mlp_fashion.onnx", "fashion_mnist", {"remove_units": 0.95}, 1.5),
    Row("seeds/mlp100_mnist.onnx", "mnist", {"remove_units": 0.5}, 0.5),
    Row("seeds/cnn_mnist.onnx", "mnist", {"remove_units": 0.5}, 0.5),
    Row("squeezenet_imagenet_fp32.onnx", "imagenet", {"keep_macs": 0.7}, 2.0),  # 4 of 200 images
)


Part: TypeAlias = Callable[[Path, bool, Path], Iterator[str]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one alone")
    parser.add_argument("--quick", action="store_true", help="fewer test samples, networks and ways; short training")
    parser.add_argument("--only", default="", help="of `prune`, `rivals`, `distill`: networks with this in their names")
    parser.add_argument("--ours", action="store_true", help="of `prune`: only `obs` with `reconstruct`")
    parser.add_argument("--seconds", type=float, help="of `distill`: how long to train, where it is not ten minutes")
    options = parser.parse_args(argv)
    for name, parts in PARTS_OF.items():
        if getattr(options, name) and options.part not in parts:
            parser.error(f"--{name} goes with --part {' or '.join(parts)}")
    folder = needed()
    if options.part is None:
        return max(_alone(name, options.quick) for name in PARTS)
    with tempfile.TemporaryDirectory() as work:
        part = PARTS[options.part]
        if options.part == "prune":
            part = partial(pruned, only=options.only, ours=options.ours)
        elif options.part == "rivals":
            part = partial(beaten, only=options.only)
        elif options.part == "distill":
            part = partial(distilled, only=options.only, seconds=options.seconds)
        missed = list(part(folder, options.quick, Path(work)))
    for claim in missed:
        print(f"MISSED: {claim}")
    return 1 if missed else 0


def _alone(part: str, quick: bool) -> int:
    """Peaks of memory are a process's own."""
    print(f"\n==== {part}", flush=True)
    command = [sys.executable, "-m", "benchmarks.accuracy", "--part", part, *(["--quick"] if quick else [])]
    start = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    print(f"{part} took {time.perf_counter() - start:.0f} s", flush=True)
    return code


def pruned(folder: Path, quick: bool, work: Path, only: str = "", ours: bool = False) -> Iterator[str]:
    """Every row, every way."""
    for row in chosen(ROWS, only):
        if not _row(row, folder, quick, work, WAYS[:1] if quick or ours else WAYS):
            yield f"{row.model} {row.amount}: more than {row.goal:g} points lost, or a layer worse than it was left"


def _row(row: Row, folder: Path, quick: bool, work: Path, ways: Sequence[tuple[str, str]]) -> bool:
    """Prints the ways of one row; whether the goal is met."""
    given = material(folder, row.data, row.model, 2_000 if quick else None, work)
    print(f"\n{row.model}, {row.amount}; {given.words}", flush=True)
    print(
        f"{'':28} {'MACs':>6} {'params':>7} {'before':>7} {'after':>7} {'lost':>6} {'agree':>6} "
        f"{'seconds':>8} {'CPU s':>6}",
        flush=True,
    )
    met = True
    for criterion, compensation in ways:
        way = {"criterion": {"name": criterion}, "compensation": compensation, "amount": row.amount}
        effort = row.effort if compensation == "reconstruct" else "usual"
        done = job(folder / row.model, given, {**way, "effort": effort}, work)
        _print(f"{criterion}, {compensation}" + (f", {effort}" if effort != "usual" else ""), done)
        if (criterion, compensation) == WAYS[0]:
            layers = done.report
            met = lost(layers) <= row.goal and all(one.error_after <= one.error_before for one in layers.refits)
    _layers(layers)
    print(f"peak memory of this process so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10:,} MiB")
    return met


def _print(name: str, done: Done) -> None:
    before, after = done.report.before, done.report.after
    assert isinstance(after.accuracy, ClassificationScore)
    assert after.accuracy.agreement is not None
    print(
        f"{name:28} {after.macs / before.macs:6.3f} {after.parameters / before.parameters:7.3f} "
        f"{points(before.accuracy):7.2f} {points(after.accuracy):7.2f} {lost(done.report):6.2f} "
        f"{100 * after.accuracy.agreement:6.2f} {done.seconds:8.1f} "
        f"{done.cpu:6.1f}",
        flush=True,
    )


def _layers(report: Report) -> None:
    """The same selection, the same features: with the weights left alone, and fitted."""
    print(f"{'error on held-back samples':44} {'left':>9} {'fitted':>9}")
    for one in report.refits:
        print(f"{one.layer[:44]:44} {one.error_before:9.5f} {one.error_after:9.5f}")
    total = np.mean([one.error_after / max(one.error_before, 1e-30) for one in report.refits])
    print(f"{len(report.refits)} layers; a fitted one has {total:.2f} of the error on average")


PARTS: dict[str, Part] = {
    "prune": pruned,
    "errors": errors,
    "rivals": beaten,
    "distill": distilled,
    "int8": rounded,
    "device": fitted,
    "cost": costed,
}

# Options that mean something to some parts alone.
PARTS_OF = {"only": ("prune", "rivals", "distill"), "ours": ("prune",), "seconds": ("distill",)}

if __name__ == "__main__":
    sys.exit(main())
