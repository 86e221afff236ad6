"""Distinctiveness of one very wide layer: `python -m benchmarks.wide`, or `make bench-wide`.

4,096 units over 50,000 samples, a quarter of the units near copies of others, behind 784 inputs and behind 4,096.
Printed: the time of a forward pass, of one that gathers the Gram (of both the better of two), and of choosing by the
threshold and in order; the most memory that was resident above model, data and a forward pass; and the papers' loop
over pairs of activation vectors, on as many pairs as a few seconds allow. A Gram multiplies each row with itself, half
of units squared: behind 784 inputs 2.6 times what the model multiplies, so that three passes are out of reach there,
behind 4,096 half of it. Exit code 1 where, behind 4,096 inputs, observing and choosing take more than three forward
passes or more than 1 GB, or where the loop finds other angles.
"""

import argparse
import ctypes
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from schemas.criteria import Distinctiveness
from tests.engine.nets import Node, gemm, model, save
from worker.engine.axes import analyse
from worker.engine.criteria import ranking
from worker.engine.criteria.evidence import angles_deg, gather, together
from worker.engine.execute import Executor, Held
from worker.engine.graph import Array, freeze
from worker.engine.load import load
from worker.engine.observe import grams, see

Result = TypeVar("Result")
CLASSES, BATCH = 10, 256
LOOP_SECONDS = 10.0
MOST_BYTES = 10**9
PASSES = 3.0
APART_DEG = 0.05  # single precision near an angle of zero


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=4096)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    print(f"{options.units:,} units, {options.samples:,} samples, {options.threads} threads")
    measured(options.units, options.samples, 784, looped=False)
    return 0 if measured(options.units, options.samples, options.units, looped=True) else 1


def measured(units: int, samples: int, features: int, looped: bool) -> bool:
    """Prints what the layer takes behind so many inputs; whether that is little enough."""
    rng = np.random.default_rng(0)
    executor = network(units, features, rng)
    x = rng.uniform(0, 1, (samples, features)).astype(np.float32)
    [group] = analyse(executor.graph, see(executor, {"x": x[:1]})).groups
    forward = least([timed(lambda: [executor.run(feeds) for feeds in batches(x)])[0] for _ in range(2)])
    before = resident("VmRSS", forget=True)
    first = timed(lambda: grams(executor, [group], batches(x)))[0]
    second, sites = timed(lambda: grams(executor, [group], batches(x))[group.name])
    gathered = least([first, second])
    evidence = gather(executor.graph, group, sites)
    judge = ranking(Distinctiveness(angle_deg=15))
    threshold, steps = timed(lambda: judge.by_threshold(evidence))
    order, _ = timed(lambda: judge.in_order(evidence))
    above = resident("VmHWM") - before
    passes, worked = ((gathered[at] + threshold[at]) / forward[at] for at in range(2))
    print(f"behind {features:,} inputs: {len(steps):,} units go")
    print(
        f"  forward pass {forward[0]:.1f} s; with the Gram {gathered[0]:.1f} s; by threshold {threshold[0]:.1f} s, "
        f"in order {order[0]:.1f} s"
    )
    print(f"  observing and choosing take {passes:.2f} forward passes, {worked:.2f} in the processors' time")
    print(f"  most memory above model, data and forward pass: {above / 1e6:,.0f} MB", flush=True)
    apart = loop(executor, x, angles_deg(together(sites, "auto"))) if looped else 0.0
    return passes <= PASSES and above <= MOST_BYTES and apart < APART_DEG


def network(units: int, features: int, rng: np.random.Generator) -> Executor:
    first = rng.standard_normal((units, features)).astype(np.float32) / np.float32(np.sqrt(features))
    copies = units // 4
    noise = rng.standard_normal((copies, features)).astype(np.float32) / np.float32(np.sqrt(features))
    first[-copies:] = first[:copies] + np.float32(0.05) * noise
    nodes = [gemm("fc1", "x", "h"), Node("Relu", ["h"], "a"), gemm("fc2", "a", "y")]
    weights = {"fc1.weight": first, "fc1.bias": (units,), "fc2.weight": (CLASSES, units), "fc2.bias": (CLASSES,)}
    proto = model(nodes, weights, {"x": ("N", features)}, ["y"])
    with tempfile.TemporaryDirectory() as folder:
        return Executor(freeze(load(save(proto, Path(folder)), {}).model))


def batches(x: np.ndarray) -> Iterator[dict[str, Array]]:
    return ({"x": x[start : start + BATCH]} for start in range(0, len(x), BATCH))


def timed(work: Callable[[], Result]) -> tuple[tuple[float, float], Result]:
    """Seconds by the clock and of the processors, and what the work gives."""
    begun, used = time.perf_counter(), time.process_time()
    found = work()
    return (time.perf_counter() - begun, time.process_time() - used), found


def least(times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Each the least: what else runs on the machine only adds to it."""
    return min(clock for clock, _ in times), min(used for _, used in times)


def resident(name: str, forget: bool = False) -> int:
    """Bytes that are (VmRSS) or at most were (VmHWM) resident; `forget` begins to count the most anew."""
    if forget:
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator only keeps is not the model's
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "Linux"
    return int(found[1]) * 1024


def loop(executor: Executor, x: np.ndarray, angles: np.ndarray) -> float:
    """One pair of vectors after the other, as published, as far as the time goes; how far the angles are apart."""
    parts: list[np.ndarray] = []

    def visit(name: str, value: Held) -> None:
        if name == "a" and isinstance(value, torch.Tensor):
            parts.append(value.numpy())

    for feeds in batches(x):
        executor.run(feeds, visit)
    acts = np.ascontiguousarray(np.concatenate(parts).T)  # (units, samples)
    parts.clear()
    every = len(acts) * (len(acts) - 1) // 2
    begun, pairs, apart = time.perf_counter(), 0, 0.0
    for i, j in combinations(range(len(acts)), 2):
        a, b = acts[i], acts[j]
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        angle = np.degrees(np.arccos(np.clip(np.dot(a, b) / lengths, -1, 1))) if lengths else 90.0
        apart = max(apart, abs(float(angle) - angles[i, j]))
        pairs += 1
        if time.perf_counter() - begun > LOOP_SECONDS:
            break
    seconds = time.perf_counter() - begun
    print(f"  the papers' loop over pairs: {pairs:,} of {every:,} in {seconds:.1f} s, so all in about ", end="")
    print(f"{seconds / pairs * every:,.0f} s, with {acts.nbytes / 1e6:,.0f} MB of activations")
    print(f"  its angles differ by at most {apart:.1e} degrees")
    return apart


if __name__ == "__main__":
    sys.exit(main())
