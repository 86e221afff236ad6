"""The Makefile's two commands install once, and never back and forth.

The interpreter is a recorder of its arguments: under test is which commands make runs. That pip installs what they say
is shown by whoever runs this suite with `make test`.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDER = """#!/bin/sh
echo "$(basename "$0") $*" >> "{log}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
        os.utime(tmp_path / name, (1_000_000_000, 1_000_000_000))
    binaries = tmp_path / ".venv/bin"
    binaries.mkdir(parents=True)
    for name in ("python", "espalier", "ruff", "mypy"):
        (binaries / name).write_text(RECORDER.format(log=tmp_path / "log"))
        (binaries / name).chmod(0o755)
    return tmp_path


# This suite may itself run under make, whose flags and variables would reach the make under test.
CLEAN = {
    name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTEST_ARGS")
}


def make(folder: Path, *targets: str) -> list[str]:
    """The commands that the targets ran."""
    (folder / "log").write_text("")
    subprocess.run(["make", *targets], cwd=folder, env=CLEAN, check=True, capture_output=True)
    return (folder / "log").read_text().splitlines()


def installs(commands: list[str]) -> list[str]:
    return [command.split()[-1] for command in commands if " pip install " in command]


def test_run_installs_once(folder: Path) -> None:
    assert [".[embedded]"] == installs(make(folder, "run"))
    assert ["espalier serve"] == make(folder, "run")


def test_test_installs_a_superset_and_neither_undoes_the_other(folder: Path) -> None:
    assert [".[embedded]"] == installs(make(folder, "run"))
    assert [".[dev]"] == installs(make(folder, "test"))
    assert [] == installs(make(folder, "run", "test", "lint"))


@pytest.mark.skipif(shutil.which("flock") is None, reason="without flock nothing waits")
def test_two_at_once_install_one_after_the_other(folder: Path) -> None:
    """As in the README: one terminal serves, another makes the example."""
    slow = f"""#!/bin/sh
case "$*" in *pip*) echo begin >> "{folder}/log"; sleep 0.5; echo end >> "{folder}/log";; esac
"""
    (folder / ".venv/bin/python").write_text(slow)
    both = [
        subprocess.Popen(["make", target], cwd=folder, env=CLEAN, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for target in ("run", "example")
    ]
    assert [0, 0] == [one.wait(timeout=60) for one in both]
    assert ["begin", "end"] * 2 == [
        line for line in (folder / "log").read_text().splitlines() if line in ("begin", "end")
    ]


@pytest.mark.skipif(shutil.which("flock") is None, reason="without flock nothing waits")
def test_two_at_once_make_one_environment(folder: Path) -> None:
    maker = folder / "python3"
    maker.write_text(f"""#!/bin/sh
case "$*" in *venv*.venv) echo made >> "{folder}/log"; sleep 0.5; cp "{folder}/later" "{folder}/.venv/bin/python";; esac
""")
    maker.chmod(0o755)
    (folder / ".venv/bin/python").rename(folder / "later")
    command = ["make", ".venv/.embedded", f"PYTHON={maker}"]
    both = [subprocess.Popen(command, cwd=folder, env=CLEAN, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [0, 0] == [one.wait(timeout=60) for one in both]
    assert 1 == (folder / "log").read_text().splitlines().count("made")


def test_after_test_run_has_nothing_to_install(folder: Path) -> None:
    make(folder, "test")
    assert [] == installs(make(folder, "run"))


def test_a_changed_pin_is_installed(folder: Path) -> None:
    make(folder, "test")
    os.utime(folder / "constraints.txt")
    os.utime(folder / ".venv/.dev", (1_500_000_000, 1_500_000_000))
    os.utime(folder / ".venv/.embedded", (1_500_000_000, 1_500_000_000))
    assert [".[dev]"] == installs(make(folder, "test"))


def test_pip_is_held_to_the_pins(folder: Path) -> None:
    assert all("-c constraints.txt" in command for command in make(folder, "run") if " pip " in command)


def test_arguments_reach_pytest_and_serve(folder: Path) -> None:
    make(folder, "test")
    assert ["python -m pytest -n 2 --dist loadfile tests/cli -x"] == make(folder, "test", "PYTEST_ARGS=tests/cli -x")
    assert ["espalier serve --port 0"] == make(folder, "run", "SERVE_ARGS=--port 0")


def test_a_python_that_is_too_old_is_refused_in_words(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = subprocess.run(
        ["make", ".venv/bin/python", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "older than Python 3.11" in result.stderr


def test_the_ci_script_runs_the_readme_test_command_and_passes_failure_on(folder: Path) -> None:
    assert "```sh\nmake test\n```" in (ROOT / "README.md").read_text()
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    make(folder, "test")
    (folder / "log").write_text("")
    assert 0 == subprocess.run([folder / ".ci/run"], env=CLEAN, check=False, capture_output=True).returncode
    assert "python -m pytest -n 2 --dist loadfile" == (folder / "log").read_text().splitlines()[-1].strip()
    (folder / ".venv/bin/mypy").write_text("#!/bin/sh\nexit 1\n")
    assert 1 == subprocess.run([folder / ".ci/run"], env=CLEAN, check=False, capture_output=True).returncode
