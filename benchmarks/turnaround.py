"""From POST to succeeded on the idle embedded service, beside the same job in this process.

    python -m benchmarks.turnaround [--runs 7]

Uses cnn_mnist and 2,000 MNIST images from ESPALIER_DATA (default ../shared/data) where they are, else a network and
data made here of the same size. Also prints how soon the API answers and how much memory it holds.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

from benchmarks.folder import DATA
from benchmarks.papers.zheng_nets import build, export
from benchmarks.serving import serving, until_ready
from schemas.request import parse_options
from service.client import Client
from worker.engine.run import InputFile, Inputs, Limits, prune

SAMPLES = 2000
OPTIONS = parse_options({"criterion": {"name": "distinctiveness", "angle_deg": 20}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        model, calibration, what = subject(Path(folder))
        inside = in_process(model, calibration, Path(folder), runs)
        outside = through_the_service(model, calibration, runs)
    print(f"\n{what}, {SAMPLES:,} samples, {os.cpu_count()} cores")
    print(f"median (least to most) of {runs} runs after one warm-up")
    row("engine in this process", inside)
    row("POST to succeeded", outside)
    gap = statistics.median(outside) - statistics.median(inside)
    print(
        f"  difference              {gap:6.3f} s   ratio {statistics.median(outside) / statistics.median(inside):.2f}"
    )
    first_answer(runs)


def row(name: str, seconds: list[float]) -> None:
    print(f"  {name:<24}{statistics.median(seconds):6.3f} s   ({min(seconds):.3f} to {max(seconds):.3f})")


def subject(folder: Path) -> tuple[Path, Path, str]:
    """A model and calibration data on disk."""
    calibration = folder / "calibration.npz"
    if (DATA / "mnist.npz").exists():
        with np.load(DATA / "mnist.npz") as mnist:
            images = mnist["x_train"][:SAMPLES, None].astype(np.float32) / 255
            np.savez(calibration, input=images, labels=mnist["y_train"][:SAMPLES])
        return DATA / "seeds" / "cnn_mnist.onnx", calibration, "cnn_mnist and MNIST"
    rng = np.random.default_rng(0)
    export(build("cnn").eval(), rng.uniform(0, 1, (2, 1, 28, 28)).astype(np.float32), folder / "cnn.onnx")
    np.savez(calibration, image=rng.uniform(0, 1, (SAMPLES, 1, 28, 28)).astype(np.float32))
    return folder / "cnn.onnx", calibration, "the paper's CNN, untrained, and noise"


def in_process(model: Path, calibration: Path, folder: Path, runs: int) -> list[float]:
    inputs = Inputs(as_input(model), {}, as_input(calibration), None)
    limits = Limits(os.cpu_count() or 1, 1 << 32)
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        prune(OPTIONS, inputs, folder, limits, lambda _: None)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def as_input(path: Path) -> InputFile:
    return InputFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.name, path.stat().st_size)


def through_the_service(model: Path, calibration: Path, runs: int) -> list[float]:
    seconds = []
    with serving() as (url, _, _), Client(url) as client:
        until_ready(url)
        for _ in range(runs + 1):
            start = time.perf_counter()
            job = client.wait(client.submit(model, OPTIONS, calibration=calibration).id)
            seconds.append(time.perf_counter() - start)
            if job.state != "succeeded":
                raise SystemExit(job.model_dump_json(indent=1))
    return seconds[1:]


def first_answer(runs: int) -> None:
    """How soon the API process answers /healthz, and its memory; then the same of `espalier serve` and its worker."""
    times, sizes = [], []
    for _ in range(runs):
        start = time.perf_counter()
        api = subprocess.Popen(
            [sys.executable, "-m", "service.api"],
            env={**os.environ, "ESPALIER_PORT": "8765"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not answers("http://127.0.0.1:8765/healthz"):
                time.sleep(0.005)
            times.append(time.perf_counter() - start)
            sizes.append(psutil.Process(api.pid).memory_info().rss / 2**20)
        finally:
            api.terminate()
            api.wait()
    print(f"\nthe API process alone, {runs} starts")
    row("start to /healthz", times)
    print(f"  resident memory         {statistics.median(sizes):6.1f} MB")
    start = time.perf_counter()
    with serving() as (url, _, _):
        while not answers(f"{url}/healthz"):
            time.sleep(0.005)
        served = time.perf_counter() - start
        until_ready(url)
        print(
            f"espalier serve: /healthz after {served:.2f} s, a worker ready after {time.perf_counter() - start:.2f} s"
        )


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
