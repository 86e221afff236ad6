"""The diffs of CONTRIBUTING.md apply to the code as it stands; the operator of the first passes its node tests."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIFFS = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in ("schemas", "worker", "tests/engine"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert 2 == len(DIFFS)
    for diff in DIFFS:
        subprocess.run(["git", "apply", "-C1", "-"], input=diff, text=True, cwd=tmp_path, check=True)
    return tmp_path


def test_the_new_operator_is_found_by_its_published_tests(copy: Path) -> None:
    tests = ["tests/engine/test_operators.py", "-k", "LpPool or named"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout
    assert "2 passed" in done.stdout, done.stdout


def test_the_new_criterion_answers_to_its_name(copy: Path) -> None:
    asked = """
from schemas.request import parse_options
from worker.engine.criteria import ranking
request = parse_options({"criterion": {"name": "activity"}, "amount": {"remove_units": 0.5}})
print(type(ranking(request.criterion)).__name__)
"""
    command = [sys.executable, "-c", asked]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert "ActivityRanking\n" == done.stdout, done.stderr
