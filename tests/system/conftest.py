"""The whole service in real processes, and models made for it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from schemas.request import parse_options
from service.client import Client
from tests.serving import Serve

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Running:
    """A service, and a client of it."""

    serve: Serve
    url: str
    client: Client

    @property
    def home(self) -> Path:
        return self.serve.home

    def left_on_disk(self) -> list[str]:
        """Files of uploads, jobs at work and results; manifests and the empty lock are meant to stay."""
        folders = [self.home / name for name in ("blobs", "tmp")]
        # os.walk, unlike rglob, goes on when a folder vanishes under it: workers tidy up meanwhile.
        files = [Path(base) / name for folder in folders for base, _, names in os.walk(folder) for name in names]
        return sorted(str(path.relative_to(self.home)) for path in files if path.name != "work.lock")

    def settles_to(self, expected: list[str]) -> bool:
        """Whether just these files are left, at the latest in a moment: a worker tidies up after it has reported."""
        return _soon(lambda: self.left_on_disk() == expected)

    def adds_nothing_to(self, before: list[str]) -> bool:
        """The same where jobs before this one may still have been tidied up after when `before` was taken."""
        return _soon(lambda: set(self.left_on_disk()) <= set(before))


def _soon(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts services; all are stopped with the test."""
    running: list[Running] = []

    def go(**environ: str) -> Running:
        running.append(run(tmp_path / "home", **environ))
        return running[-1]

    yield go
    for one in running:
        finish(one)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for the tests of a module that leave it as it was."""
    one = run(tmp_path_factory.mktemp("service") / "home")
    yield one
    finish(one)


def run(home: Path, **environ: str) -> Running:
    serve = Serve(home, **environ)
    url = serve.url()
    return Running(serve, url, Client(url))


def finish(running: Running) -> None:
    running.client.close()
    running.serve.stop()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that examples/digits.py fills."""
    folder = tmp_path_factory.mktemp("example") / "out"
    script = ROOT / "examples/digits.py"
    subprocess.run([sys.executable, "-W", "error", str(script), "--out", str(folder)], check=True, capture_output=True)
    return folder


# What keeps a worker busy with the data and is done soon after.
LOOK = parse_options({"criterion": {"name": "distinctiveness"}})


@dataclass(frozen=True)
class Work:
    """A model and data that keep a worker busy for some seconds."""

    model: Path
    calibration: Path


@pytest.fixture(scope="session")
def long_work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("long")
    random = np.random.default_rng(0)
    mlp(folder / "wide.onnx", (256, 2048, 2048, 10), random)
    np.savez(folder / "cal.npz", x=random.normal(size=(24_000, 256)).astype(np.float32))
    return Work(folder / "wide.onnx", folder / "cal.npz")


def mlp(path: Path, widths: tuple[int, ...], random: np.random.Generator) -> None:
    """Fully connected layers with ReLU between them, and weights of the usual size."""
    nodes, weights, value = [], [], "x"
    for i, (inputs, outputs) in enumerate(pairwise(widths), 1):
        weight = (random.normal(size=(inputs, outputs)) / np.sqrt(inputs)).astype(np.float32)
        weights += [numpy_helper.from_array(weight, f"w{i}")]
        weights += [numpy_helper.from_array(np.zeros(outputs, np.float32), f"b{i}")]
        last = i == len(widths) - 1
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], ["y" if last else f"h{i}"], f"fc{i}"))
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"a{i}"], f"relu{i}"))
            value = f"a{i}"
    model(path, nodes, weights, widths[0], widths[-1])


def model(path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], inputs: int, outputs: int) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])
    graph = helper.make_graph(nodes, "test", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
