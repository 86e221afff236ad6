"""How many copies of a model a job holds. The kernel watches two processes: one that only imports the engine, and one
that prunes; what the second holds beyond the first is counted in sizes of the model."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import large

MOST_COPIES = 2.2
# Compressing takes most of the time and no memory.
AS_USUAL = "from worker.engine import load; load.GZIP_BLOCKS = 4; from worker.engine.__main__ import main"
NOTHING_MAPPED = f"from worker.engine import shelf; shelf.LARGE = 1 << 40; {AS_USUAL}"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundred megabytes of weights."""
    folder = tmp_path_factory.mktemp("large")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "WIDTH", 1024)
        large.build(folder, 125_000_000, external=False)
    return folder / "net.onnx"


@pytest.fixture(scope="module")
def base() -> int:
    return large.peak([sys.executable, "-c", AS_USUAL])[0]


def copies(network: Path, base: int, code: str, folder: Path) -> float:
    options = json.dumps(large.REQUEST)
    arguments = ["--model", str(network), "--options", options, "--workdir", str(folder), "--threads", "1"]
    most, last = large.peak([sys.executable, "-c", f"{code}; import sys; sys.exit(main(sys.argv[1:]))", *arguments])
    assert '"done"' in last, last
    return (most - base) / network.stat().st_size


def test_a_job_holds_about_twice_its_model(network: Path, base: int, tmp_path: Path) -> None:
    assert network.stat().st_size > 10**8
    assert copies(network, base, AS_USUAL, tmp_path) < MOST_COPIES


def test_without_maps_it_would_hold_more(network: Path, base: int, tmp_path: Path) -> None:
    assert copies(network, base, NOTHING_MAPPED, tmp_path) > MOST_COPIES
