"""What the packages drag in, each seen in a fresh process."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "onnx", "onnxruntime", "numpy", "scipy"}
WEB = {"fastapi", "starlette", "uvicorn"}
QUEUE = {"celery", "kombu", "redis"}


def loaded_by(module: str, names: set[str]) -> set[str]:
    program = f"import sys, {module}; print(*({names!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["state.jobs", "state.blobs", "state.bell", "state.reaper", "state.rebuild"])
def test_state_is_light(module: str) -> None:
    assert set() == loaded_by(module, HEAVY | WEB | {"obstore", "service", "worker"})


def test_the_workers_shell_leaves_the_libraries_to_the_launcher() -> None:
    assert set() == loaded_by("worker.shell", HEAVY | WEB | {"service"})


def test_a_jobs_process_knows_no_queue() -> None:
    assert set() == loaded_by("worker.perform", WEB | QUEUE | {"service", "state"})


def test_the_probe_sees_what_is_loaded() -> None:
    assert {"celery", "redis"} <= loaded_by("state.bell", QUEUE)
