"""A network for a part that it does not fit, and what a job costs: parts of `benchmarks.accuracy`.

In: the data folder. Out: tables, and the claims that were missed.
"""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy_data import material
from benchmarks.accuracy_job import job, lost, points
from schemas.report import Report
from worker.engine.embedded.check import check
from worker.engine.execute import Executor
from worker.engine.graph import freeze
from worker.engine.load import load

PART = {"flash_bytes": 128 << 10, "ram_bytes": 64 << 10}
NETWORK = "seeds/lenet_cifar.onnx"
MOST_OFF = 0.10
MOST_LOST = 1.0
IMAGES, QUICK_IMAGES = 5_000, 1_000
MOST_PASSES, MOST_MEMORY = 12.0, 2 << 30


def fitted(folder: Path, quick: bool, work: Path) -> Iterator[str]:
    """The most accurate model for 128 KiB of flash and 64 KiB of RAM, compiled and run in an emulator."""
    given = material(folder, "cifar", NETWORK, 2_000 if quick else None, work)
    made = job(folder / NETWORK, given, {"target": PART, "verify_on": "cortex-m4"}, work).folder
    check(made, lambda _: None)
    report = Report.model_validate_json((made / "report.json").read_bytes())
    target, compiled = report.devices.target, report.devices.compiled
    assert target is not None
    assert compiled is not None
    print(f"{NETWORK}: {points(report.before.accuracy):.2f}, then {points(report.after.accuracy):.2f}")
    print(f"weights {report.before.flash_bytes:,}, then {report.after.flash_bytes:,} and a program of some "
          f"{target.program_bytes:,} in {PART['flash_bytes']:,} bytes of flash")  # fmt: skip
    print(f"activations {report.before.peak_ram_bytes:,}, then {report.after.peak_ram_bytes:,} and a stack of some "
          f"{target.stack_bytes:,} in {PART['ram_bytes']:,} bytes of RAM")  # fmt: skip
    if lost(report) > MOST_LOST:
        yield f"{NETWORK} lost {lost(report):.2f} points on its way into the part"
    if target.before.fits or not target.after.fits:
        yield f"{NETWORK} should not have fitted before, and should now"
    found = compiled.figures
    if found is None:
        assert compiled.refused is not None
        print(f"not compiled: {compiled.refused.detail}")
        return
    print(f"compiled: flash {found.flash_bytes:,} ({found.weights_bytes:,} weights, {found.program_bytes:,} program), "
          f"RAM {found.ram_bytes:,} ({found.arena_bytes:,} arena, {found.stack_bytes:,} stack)")  # fmt: skip
    if not (found.agrees and target.holds(found)):
        yield f"{NETWORK} as firmware does not agree, or does not fit"
    guesses = ((found.estimated_flash_bytes, found.weights_bytes), (found.estimated_ram_bytes, found.ram_bytes))
    if max(abs(guess / there - 1) for guess, there in guesses) > MOST_OFF:
        yield f"{NETWORK}: an estimate is more than {MOST_OFF:.0%} off"


def costed(folder: Path, quick: bool, work: Path) -> Iterator[str]:
    """A whole job on ResNet-56 in passes of its calibration data through the model, and its peak of memory."""
    model, count = folder / "resnet56_cifar10.onnx", QUICK_IMAGES if quick else IMAGES
    given = material(folder, "cifar", model.name, 500, work, count)
    done = job(model, given, {"amount": {"keep_macs": 0.5}}, work)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    wall, cpu = _one_pass(model, count)
    print(f"{count:,} images: {done.seconds:.0f} s ({done.cpu:.0f} s of CPU), {done.seconds / wall:.1f} passes of "
          f"{wall:.1f} s ({done.cpu / cpu:.1f} of {cpu:.1f} s of CPU), peak {peak >> 20:,} MiB")  # fmt: skip
    if done.cpu / cpu > MOST_PASSES and not quick:  # CPU time: others may be at work on the same cores
        yield f"the job took {done.cpu / cpu:.1f} forward passes, not {MOST_PASSES:g}"
    if peak > MOST_MEMORY:
        yield f"the job took {peak:,} bytes of memory"


def _one_pass(model: Path, count: int) -> tuple[float, float]:
    """The engine's own forward pass over as many images; what they show does not matter."""
    executor = Executor(freeze(load(model, {}).model))
    feed = np.random.default_rng(0).standard_normal((250, 3, 32, 32)).astype(np.float32)
    executor.run({"input": feed})
    start, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        for _ in range(count // len(feed)):
            executor.run({"input": feed})
    return time.perf_counter() - start, time.process_time() - cpu
