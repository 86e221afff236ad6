"""Other pruners, asked in an interpreter of their own, one process each.

In: a subject. Out: what share of the parameters they keep when every group loses half, and whether the result computes
what masking the same units computes. This side talks JSON lines to `benchmarks.rivals_side` over pipes.
"""

import json
import os
import select
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.subjects import Subject

LIMIT_S = 300
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Answer:
    kept: float
    exact: bool | None  # None where only a run could be checked


class Rival:
    """A pruner behind a pipe; a crash or a long silence costs it one model."""

    def __init__(self, name: str, kind: str, python: str) -> None:
        self.name = name
        self.kind = kind
        self.python = python
        self.missing = ""
        self.process: subprocess.Popen[str] | None = None
        self._start()

    def _start(self) -> None:
        self.process = None
        if not self.python:
            self.missing = "not installed"
            return
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [self.python, "-m", "benchmarks.rivals_side", self.kind]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.missing = "" if self._line(60) == '"ready"' else "not installed"
        if self.missing:
            self.close()

    def ask(self, subject: Subject) -> Answer | str:
        if self.missing:
            return self.missing
        if self.kind == "torch_pruning" and not subject.module:
            return "no live module"
        if self.process is None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"path": str(subject.path.resolve()), "module": subject.module}) + "\n")
        self.process.stdin.flush()
        line = self._line(LIMIT_S)
        if line is None:
            self.close()
            return "no answer"
        answer = json.loads(line)
        return answer if isinstance(answer, str) else Answer(**answer)

    def _line(self, seconds: float) -> str | None:
        assert self.process is not None
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else ""
        return line.strip() or None

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
            self.process = None


def pruned_by_rival(
    python: str, how: Literal["channels", "live"], model: Path, target: Path, method: str, share: float, data: Path
) -> float | None:
    """Let onnxsim remove channels, or Torch-Pruning units of a live module; the share of the parameters that stays,
    None where it fails or takes too long."""
    command = [python, "-m", "benchmarks.rivals_side", how, str(model), str(target), method, str(share)]
    try:
        done = subprocess.run(
            [*command, str(data)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=False, timeout=LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def rivals() -> list[Rival]:
    python = os.environ.get("BENCH_RIVALS_PYTHON", "")
    return [Rival("Torch-Pruning", "torch_pruning", python), Rival("onnxsim", "onnxsim", python)]
