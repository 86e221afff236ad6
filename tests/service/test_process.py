"""The API as a process: what it loads, how soon it answers, what it weighs, how it leaves."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import die_with_parent

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "worker")
CLIENT_ONLY = ("service.api", "service.app", "service.server")


def loaded(statement: str) -> set[str]:
    """The modules in a fresh process after a statement."""
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", CLIENT_ONLY)
def test_the_shell_loads_no_engine(module: str) -> None:
    modules = loaded(f"import {module}")
    assert module in modules
    assert set() == modules & set(HEAVY)


def test_the_search_would_find_it() -> None:
    assert "numpy" in loaded("import service.app, numpy")


def test_it_is_light(process: tuple[psutil.Process, str]) -> None:
    seen, url = process
    assert 200 == httpx.get(f"{url}/healthz").status_code
    httpx.post(f"{url}/prune", files={"model": b"m", "calibration": b"c"})
    assert seen.memory_info().rss < 80 * 1024 * 1024


def test_it_leaves_when_told_although_somebody_listens(process: tuple[psutil.Process, str]) -> None:
    seen, url = process
    job = httpx.post(f"{url}/prune", files={"model": b"m", "calibration": b"c"}).json()
    with httpx.stream("GET", url + job["links"]["events"], timeout=60) as answer:
        parts = answer.iter_text()
        next(parts)
        seen.send_signal(signal.SIGTERM)
        # A stream that is cut off, not ended, would raise here.
        assert "cancelled" not in "".join(parts)
    seen.wait(20)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"ESPALIER_HOST": "0.0.0.0"}, "ESPALIER_API_KEYS_FILE"),
        ({"ESPALIER_PROT": "1"}, "ESPALIER_PORT"),
        ({"ESPALIER_API_KEYS_FILE": "/nowhere/keys"}, "/nowhere/keys"),
    ],
)
def test_settings_that_make_no_sense_are_said_in_one_line(env: dict[str, str], says: str) -> None:
    command = [sys.executable, "-m", "service.api"]
    done = subprocess.run(
        command,
        env={**os.environ, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=die_with_parent,
    )
    assert 2 == done.returncode
    assert says in done.stderr
    assert "Traceback" not in done.stderr
