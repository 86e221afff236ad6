"""The compiled check where jobs are confined: the toolchain runs, and nothing else does."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.job import JobState
from schemas.report import Report
from tests.engine.toolchains import needs_toolchain
from tests.worker.test_engine_child import HALF, engine, network, place, samples, submit
from worker import attempt as attempts
from worker.attempt import Workplace, attempt
from worker.sandbox import landlock_version

__all__ = ["engine", "place"]  # fixtures

CONFINED = """
import subprocess, sys
from pathlib import Path
from worker.engine.embedded import toolchain
from worker.sandbox import Confinement, confine
tools = toolchain.find()
programs = tools.programs if sys.argv[2] == "may" else ()
work = Path(sys.argv[1])
plan = Confinement(tools.folders, work, cpu_seconds=60, memory_bytes=None, file_bytes=1 << 20, run=programs)
assert confine(plan).level == "full"
Path("a.c").write_text("int a(void) { return 1; }")
for command in (
    [str(tools.compiler), "-c", "a.c", "-o", "a.o"],
    [str(tools.size), "a.o"],
    [str(tools.emulator), "--version"],
    ["/bin/sh", "-c", "true"],
    [sys.executable, "-c", "pass"],
    ["./a.o"],
):
    try:
        done = subprocess.run(command, capture_output=True, cwd=work)
        print("ran" if done.returncode == 0 else done.stderr.decode()[-200:])
    except OSError as error:
        print(type(error).__name__)
"""


@needs_toolchain
@pytest.mark.skipif(landlock_version() < 3, reason="the kernel has no Landlock that suffices")
@pytest.mark.parametrize(("may", "said"), [("may", ["ran"] * 3), ("not", ["PermissionError"] * 3)])
def test_a_confined_process_starts_the_toolchain_and_nothing_else(may: str, said: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONFINED, str(tmp_path), may]
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    assert [*said, "PermissionError", "PermissionError", "PermissionError"] == done.stdout.splitlines()


def test_without_landlock_no_program_may_be_started(tmp_path: Path) -> None:
    """seccomp cannot tell one program from another."""
    code = """
import subprocess, sys
from pathlib import Path
from worker import sandbox
sandbox.landlock_version = lambda: 0
shell = Path("/bin/sh")
plan = sandbox.Confinement((), Path(sys.argv[1]), cpu_seconds=60, memory_bytes=None, file_bytes=1, run=(shell,))
print(sandbox.confine(plan).missing)
try:
    subprocess.run([shell, "-c", "true"])
except PermissionError:
    print("refused")
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    env = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert ("('landlock',)\nrefused\n", 0) == (done.stdout, done.returncode), done.stderr


def report_of(place: Workplace, options: dict[str, object]) -> tuple[Report, list[str]]:
    job = submit(place, {"model": network(8), "calibration": samples(200)}, {**HALF, **options})
    claim = place.store.claim(job.id, "w", lease_seconds=5)
    assert claim is not None
    attempt(claim, place)
    done = place.store.get(job.id, "ann")
    assert JobState.SUCCEEDED == done.state, done.failure
    assert done.result is not None
    text = b"".join(place.blobs.read(done.result.report_json.blob))
    return Report.model_validate(json.loads(text)), [one.name for one in done.result.files]


@needs_toolchain
def test_a_confined_job_is_compiled_and_run(place: Workplace) -> None:
    report, files = report_of(place, {"verify_on": "cortex-m7"})
    assert report.devices.compiled is not None
    assert None is report.devices.compiled.refused, report.devices.compiled.refused
    assert report.devices.compiled.figures is not None
    assert report.devices.compiled.figures.agrees
    assert ["model.c"] == files


def test_a_check_that_takes_too_long_leaves_the_job_its_results(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "COMPILE_SECONDS", 0.0)
    report, files = report_of(place, {"verify_on": "cortex-m4"})
    assert report.devices.compiled is not None
    assert report.devices.compiled.refused is not None
    assert "device_check_failed" == report.devices.compiled.refused.code
    assert [] == files


def test_a_check_that_uses_up_the_time_leaves_some_for_the_verification(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    spent: list[bool] = []

    def guard(*_: object) -> Callable[[int], str | None]:
        made.append(len(made))
        mine = made[-1]
        return lambda _: "wall" if mine == 0 and spent else None

    monkeypatch.setattr(attempts, "_guard", guard)
    monkeypatch.setattr(attempts, "_compile", lambda *_: spent.append(True))
    report, files = report_of(place, {"verify_on": "cortex-m4"})
    assert ([True], []) == (spent, files)
    assert report.devices.compiled is not None
    assert report.devices.compiled.refused is not None
