"""What pruning without training costs in accuracy: `python -m benchmarks.accuracy [--quick] [--only NAME]`, or
`make bench-accuracy`.

Prunes real networks through the engine by `obs` and by `magnitude`, with every compensation, to the same amounts, and
prints accuracies over all test samples, times and memory. Where BENCH_RIVALS_PYTHON names an interpreter with onnxsim,
its L2 and Wanda channels stand beside them at the same amount. Then, for one selection, the error of every layer
on held-back samples as it is left by `none` and by `reconstruct`. In: ESPALIER_DATA (default ../shared/data). Out:
tables. Exit code 1 where an accuracy falls by more than its goal, or a fitted layer is worse than one left as it was.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.accuracy_data import Material, material
from benchmarks.papers.bench import input_file
from benchmarks.rivals import pruned_by_onnxsim
from schemas.report import Report
from schemas.request import PruneRequest
from worker.engine.run import Inputs, Limits, prune

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
    options: dict[str, object] = field(default_factory=dict)


ROWS = (
    Row("resnet56_cifar10.onnx", "cifar", {"keep_macs": 0.75}, 0.3),
    Row("resnet56_cifar10.onnx", "cifar", {"keep_macs": 0.5}, 1.2),
    Row("resnet56_cifar10.onnx", "cifar", {"keep_macs": 1 / 2.57}, 3.0),
    Row("resnet56_cifar10_bn.onnx", "cifar", {"keep_macs": 0.5}, 1.2),
    Row("resnet20_cifar10.onnx", "cifar", {"keep_macs": 0.5}, 4.0),
    Row("seeds/mlp_fashion.onnx", "fashion_mnist", {"remove_units": 0.8}, 0.3),
    Row("seeds/mlp_fashion.onnx", "fashion_mnist", {"remove_units": 0.95}, 1.5),
    Row("seeds/mlp100_mnist.onnx", "mnist", {"remove_units": 0.5}, 0.5),
    Row("seeds/cnn_mnist.onnx", "mnist", {"remove_units": 0.5}, 0.5),
    Row("squeezenet_imagenet_fp32.onnx", "imagenet", {"keep_macs": 0.7}, 4.0),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2,000 test samples, and obs with reconstruct alone")
    parser.add_argument("--only", default="", help="only networks whose name holds this")
    options = parser.parse_args(argv)
    folder = Path(os.environ.get("ESPALIER_DATA") or "../shared/data")
    missed = [row for row in ROWS if options.only in row.model and not _row(row, folder, options.quick)]
    for row in missed:
        print(
            f"MISSED: {row.model} {row.amount}: more than {row.goal:g} points lost, or a layer worse than it was left"
        )
    return 1 if missed else 0


def _row(row: Row, folder: Path, quick: bool) -> bool:
    """Prints the ways of one row; whether the goal is met."""
    with tempfile.TemporaryDirectory() as work:
        given = material(folder, row.data, row.model, 2_000 if quick else None, Path(work))
        print(f"\n{row.model}, {row.amount}; {given.words}", flush=True)
        print(f"{'':28} {'MACs':>6} {'params':>7} {'before':>7} {'after':>7} {'lost':>6} {'seconds':>8} {'CPU s':>6}")
        met = True
        for criterion, compensation in WAYS[:1] if quick else WAYS:
            report, seconds, cpu = _job(row, folder, given, criterion, compensation, Path(work))
            lost = _print(f"{criterion}, {compensation}", report, seconds, cpu)
            if (criterion, compensation) == WAYS[0]:
                met = lost <= row.goal and all(one.error_after <= one.error_before for one in report.refits)
                layers = report
        _rivals(row, folder, given, layers, Path(work))
        _layers(layers)
        print(f"peak memory of this process so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10:,} MiB")
    return met


def _job(
    row: Row, folder: Path, given: Material, criterion: str, compensation: str, work: Path
) -> tuple[Report, float, float]:
    request = PruneRequest.model_validate(
        {
            "criterion": {"name": criterion},
            "amount": row.amount,
            "compensation": compensation,
            "preprocess": given.preprocess,
            **row.options,
        }
    )
    files = [input_file(path) for path in (given.calibration, given.evaluation)]
    inputs = Inputs(input_file(folder / row.model), {}, *files)
    start, cpu = time.perf_counter(), time.process_time()
    report = prune(request, inputs, work, Limits(os.cpu_count() or 1, 1 << 33), lambda _: None)
    return report, time.perf_counter() - start, time.process_time() - cpu


def _print(name: str, report: Report, seconds: float, cpu: float) -> float:
    before, after = report.before, report.after
    assert before.accuracy is not None
    assert after.accuracy is not None
    first, then = 100 * before.accuracy.score, 100 * after.accuracy.score
    print(
        f"{name:28} {after.macs / before.macs:6.3f} {after.parameters / before.parameters:7.3f} {first:7.2f} "
        f"{then:7.2f} {first - then:6.2f} {seconds:8.1f} {cpu:6.1f}",
        flush=True,
    )
    return first - then


def _rivals(row: Row, folder: Path, given: Material, report: Report, work: Path) -> None:
    """onnxsim at the same share of units, or at the sparsity that comes closest to our share of the parameters."""
    python = os.environ.get("BENCH_RIVALS_PYTHON", "")
    if not python or row.data == "imagenet":
        return
    share = report.after.parameters / report.before.parameters
    tried = [row.amount["remove_units"]] if "remove_units" in row.amount else [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    for method in ("L2", "Wanda"):
        found = []
        for sparsity in tried:
            target = work / "rival.onnx"
            kept = pruned_by_onnxsim(python, folder / row.model, target, method, sparsity, given.rival_calibration)
            if kept is not None:
                found.append((abs(kept - share), kept, sparsity, given.accuracy(target)))
        if not found:
            print(f"onnxsim, {method:19} no answer")
            continue
        _, kept, sparsity, score = min(found)
        print(f"{f'onnxsim, {method} at {sparsity:g}':28} {'':6} {kept:7.3f} {'':7} {100 * score:7.2f}", flush=True)


def _layers(report: Report) -> None:
    """The same selection, the same features: with the weights left alone, and fitted."""
    print(f"{'error on held-back samples':44} {'left':>9} {'fitted':>9}")
    for one in report.refits:
        print(f"{one.layer[:44]:44} {one.error_before:9.5f} {one.error_after:9.5f}")
    total = np.mean([one.error_after / max(one.error_before, 1e-30) for one in report.refits])
    print(f"{len(report.refits)} layers; a fitted one has {total:.2f} of the error on average")


if __name__ == "__main__":
    sys.exit(main())
