"""A real API for the client and the commands, and the folder of one real pruning."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.service.conftest import api, serve

__all__ = ["api", "serve"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Example:
    """What examples/digits.py leaves."""

    model: Path
    calibration: Path
    evaluation: Path


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    folder = tmp_path_factory.mktemp("digits")
    script = ROOT / "examples/digits.py"
    subprocess.run([sys.executable, "-W", "error", str(script), "--out", str(folder)], check=True, capture_output=True)
    return Example(folder / "digits.onnx", folder / "calibration.npz", folder / "evaluation.npz")
