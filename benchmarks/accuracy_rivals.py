"""The same amounts by other pruners, and by the plain cut: a part of `benchmarks.accuracy`.

In: the data folder, and BENCH_RIVALS_PYTHON, which names an interpreter with torch, onnxsim and torch-pruning; without
it only the plain cut stands beside ours. Out: a table, and the rows in which another one does better. onnxsim gets the
sparsity at which its L2 keeps the share of parameters that comes closest to ours, Torch-Pruning the same share of units
of the live module; its Taylor sees labels, ours never do.
"""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from benchmarks.accuracy_data import Material, material
from benchmarks.accuracy_job import job, points
from benchmarks.rivals import pruned_by_rival

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
CHANNELS = ("L2", "L2 + fit", "Wanda", "Wanda + fit")


@dataclass(frozen=True)
class Contest:
    """`live`: there is a module beside the file."""

    model: str
    data: str
    amount: Mapping[str, float]
    live: bool = False


CONTESTS = (
    Contest("resnet56_cifar10.onnx", "cifar", {"keep_macs": 0.5}),
    Contest("resnet20_cifar10.onnx", "cifar", {"keep_macs": 0.5}),
    Contest("seeds/mlp_fashion.onnx", "fashion_mnist", {"remove_units": 0.8}, live=True),
    Contest("seeds/mlp100_mnist.onnx", "mnist", {"remove_units": 0.5}, live=True),
    Contest("seeds/cnn_mnist.onnx", "mnist", {"remove_units": 0.5}, live=True),
)


def beaten(folder: Path, quick: bool, work: Path) -> Iterator[str]:
    """Ours, the plain cut and the others, row by row."""
    python = os.environ.get("BENCH_RIVALS_PYTHON", "")
    if not python:
        print("BENCH_RIVALS_PYTHON is not set: no other pruner is asked")
    for one in CONTESTS[2:] if quick else CONTESTS:
        given = material(folder, one.data, one.model, 2_000 if quick else None, work)
        ours = job(folder / one.model, given, {"amount": one.amount}, work).report
        share = ours.after.parameters / ours.before.parameters
        best = points(ours.after.accuracy)
        print(f"\n{one.model}, {dict(one.amount)}, {points(ours.before.accuracy):.2f} as uploaded; {given.words}")
        print(f"{'':28} {'params':>7} {'after':>7}\n{'obs, reconstruct':28} {share:7.3f} {best:7.2f}", flush=True)
        cut = {"criterion": {"name": "magnitude"}, "compensation": "none", "amount": one.amount}
        plain = job(folder / one.model, given, cut, work).report
        cut_share = plain.after.parameters / plain.before.parameters
        others = _others(python, one, folder, given, share, work) if python else ()
        for name, kept, accuracy in chain([("L2, cut", cut_share, points(plain.after.accuracy))], others):
            print(f"{name:28} {kept:7.3f} {accuracy:7.2f}", flush=True)
            if accuracy > best and kept <= 1.02 * share:
                yield f"{one.model}: {name} gives {accuracy:.2f}, ours {best:.2f}"


def _others(
    python: str, one: Contest, folder: Path, given: Material, share: float, work: Path
) -> Iterator[tuple[str, float, float]]:
    """Name, share of the parameters kept, accuracy."""
    target, path = work / "rival.onnx", folder / one.model
    sparsity = one.amount.get("remove_units")
    if sparsity is None:
        sizes = [(pruned_by_rival(python, "channels", path, target, CHANNELS[0], tried, given.rival_calibration), tried)
                 for tried in SPARSITIES]  # fmt: skip
        sparsity = min(((abs(kept - share), tried) for kept, tried in sizes if kept is not None), default=(0, 0.5))[1]
    asked = [("onnxsim", "channels", path, method) for method in CHANNELS]
    if one.live:
        asked += [("Torch-Pruning", "live", path.with_suffix(".pt"), method) for method in ("L2", "Taylor")]
    for name, how, source, method in asked:
        start = time.perf_counter()
        kept = pruned_by_rival(python, how, source, target, method, sparsity, given.rival_calibration)
        took = time.perf_counter() - start
        if kept is None:
            print(f"{f'{name}, {method}':28} no answer after {took:.0f} s", flush=True)
        else:
            yield f"{name}, {method} ({took:.0f} s)", kept, 100 * given.accuracy(target)
