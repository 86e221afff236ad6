"""The same amounts by other pruners, and by the plain cut: a part of `benchmarks.accuracy`.

In: the data folder, and BENCH_RIVALS_PYTHON, which names an interpreter with torch, onnxsim and torch-pruning; without
it only the plain cut stands beside ours. Out: a table, and the rows in which another one does better. onnxsim gets the
sparsity at which its L2 keeps the share of MACs that comes closest to ours, or the share of units that was asked for;
Torch-Pruning the same share of units of the live module; its Taylor sees labels, ours never do.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import onnx

from benchmarks.accuracy_data import Images, Material, chosen, material
from benchmarks.accuracy_job import job, points
from benchmarks.rivals import pruned_by_rival
from schemas.report import Report
from worker.engine.cost import macs_by_op
from worker.engine.execute import Executor
from worker.engine.graph import freeze
from worker.engine.load import load

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
CHANNELS = ("L2", "L2 + fit", "Wanda", "Wanda + fit")
WITHOUT_INPUTS = 4  # the version of the format since which weights need not be inputs


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
    Contest("squeezenet_imagenet_fp32.onnx", "imagenet", {"keep_macs": 0.7}),
)


def beaten(folder: Path, quick: bool, work: Path, only: str = "") -> Iterator[str]:
    """Ours, the plain cut and the others, row by row."""
    python = os.environ.get("BENCH_RIVALS_PYTHON", "")
    if not python:
        print("BENCH_RIVALS_PYTHON is not set: no other pruner is asked")
    for one in chosen([one for one in CONTESTS if one.live or not quick], only):
        given = material(folder, one.data, one.model, 2_000 if quick else None, work)
        ours = job(folder / one.model, given, {"amount": one.amount}, work).report
        kept, best = _kept(ours), points(ours.after.accuracy)
        print(f"\n{one.model}, {dict(one.amount)}, {points(ours.before.accuracy):.2f} as uploaded; {given.words}")
        print(f"{'':28} {'MACs':>7} {'params':>7} {'after':>7}\n{'obs, reconstruct':28} {kept} {best:7.2f}", flush=True)
        cut = {"criterion": {"name": "magnitude"}, "compensation": "none", "amount": one.amount}
        plain = job(folder / one.model, given, cut, work).report
        others = _others(python, one, folder, given, kept.macs, work) if python else ()
        for name, its, accuracy in chain([("L2, cut", _kept(plain), points(plain.after.accuracy))], others):
            print(f"{name:28} {its} {accuracy:7.2f}", flush=True)
            if accuracy > best and its.macs <= 1.02 * kept.macs:
                yield f"{one.model}: {name} gives {accuracy:.2f}, ours {best:.2f}"


@dataclass(frozen=True)
class Kept:
    """Shares of what the uploaded model has."""

    macs: float
    parameters: float

    def __str__(self) -> str:
        return f"{self.macs:7.3f} {self.parameters:7.3f}"


def _kept(report: Report) -> Kept:
    before, after = report.before, report.after
    return Kept(after.macs / before.macs, after.parameters / before.parameters)


def _macs(path: Path, samples: Images) -> int:
    """Of a file, for one sample."""
    graph, shapes = freeze(load(path, {}).model), dict[str, tuple[int, ...]]()
    feeds = {graph.inputs[0].name: samples[:1]}
    Executor(graph).run(feeds, lambda name, value: shapes.update({name: tuple(value.shape)}))
    return sum(macs_by_op(graph, shapes.__getitem__).values())


def _plain(path: Path, work: Path) -> Path:
    """onnxsim leaves weights that are inputs as well, as in old files, at their old sizes there."""
    model = onnx.load(path)
    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, WITHOUT_INPUTS)
    onnx.save(model, work / "plain.onnx")
    return work / "plain.onnx"


def _others(
    python: str, one: Contest, folder: Path, given: Material, share: float, work: Path
) -> Iterator[tuple[str, Kept, float]]:
    """Name, what it keeps, accuracy."""
    target, path = work / "rival.onnx", _plain(folder / one.model, work)
    whole, data = _macs(path, given.ready), given.rival_calibration
    sparsity = one.amount.get("remove_units")
    if sparsity is None:
        apart = dict[float, float]()
        for tried in SPARSITIES:
            if pruned_by_rival(python, "channels", path, target, CHANNELS[0], tried, data) is not None:
                with suppress(Exception):  # a file that does not run is told of below
                    apart[tried] = abs(_macs(target, given.ready) / whole - share)
        sparsity = min(apart, key=apart.__getitem__, default=0.5)
    asked = [("onnxsim", "channels", path, method) for method in CHANNELS]
    if one.live:
        source = (folder / one.model).with_suffix(".pt")
        asked += [("Torch-Pruning", "live", source, method) for method in ("L2", "Taylor")]
    for name, how, source, method in asked:
        start = time.perf_counter()
        kept = pruned_by_rival(python, how, source, target, method, sparsity, data)
        took = time.perf_counter() - start
        if kept is None:
            print(f"{f'{name}, {method}':28} no answer after {took:.0f} s", flush=True)
            continue
        try:
            its, accuracy = Kept(_macs(target, given.ready) / whole, kept), given.accuracy(target)
        except Exception as error:  # as many types as things that can be wrong with a model
            why, *_ = str(error).split("\n")
            print(f"{f'{name}, {method}':28} its file does not run: {why}", flush=True)
            continue
        yield f"{name}, {method} ({took:.0f} s)", its, 100 * accuracy
