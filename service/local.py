"""`espalier prune --local`, `espalier inspect --local`: the engine in a child process; this shell never imports it.

In: a request and paths. Out: the files that the engine leaves in the work folder. Refused: a missing engine
(`MissingExtraError`), and whatever the engine refuses, with its own code; a child that dies without a word is
`job_crashed`.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from schemas.errors import EspalierError, Failure
from schemas.job import Progress
from schemas.kinds import JobRequest
from service.extras import ENGINE, require

LAST_WORDS = 2000
CRASH_HINT = "Try fewer samples or --threads 1; if it dies again, report it with these last words."

# Measured: two OpenMP threads that spin while they wait turn ten seconds into a minute on busy cores.
THREADING = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}


def run_local(
    request: JobRequest,
    *,
    model: Path,
    calibration: Path | None,
    evaluation: Path | None,
    history: Path | None = None,
    external: Mapping[str, Path],
    workdir: Path,
    threads: int,
    trust_torchscript: bool,
    on_progress: Callable[[Progress], None],
) -> None:
    require("--local", "engine", ENGINE)
    options = workdir / "options.json"
    options.write_text(request.model_dump_json(by_alias=True, exclude_unset=True))
    command = [sys.executable, "-m", "worker.engine", "--model", str(model), "--options", f"@{options}"]
    command += ["--workdir", str(workdir), "--threads", str(threads)]
    for flag, path in (("--calibration", calibration), ("--evaluation", evaluation), ("--history", history)):
        command += [flag, str(path)] if path else []
    command += ["--kind", request.kind]
    command += ["--trust-torchscript"] if trust_torchscript else []
    for location, path in external.items():
        command += ["--external", f"{location}={path}"]
    with tempfile.TemporaryFile() as words:
        environ = THREADING | os.environ
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, env=environ) as child:  # noqa: S603  # our own interpreter and module
            try:
                failure = _follow(child, on_progress)
            finally:
                child.kill()
        if failure is not None:
            raise EspalierError.of(failure)
        if child.returncode != 0:
            raise EspalierError("job_crashed", _epitaph(child.returncode, words), where=str(model), hint=CRASH_HINT)


def _follow(child: subprocess.Popen[bytes], on_progress: Callable[[Progress], None]) -> Failure | None:
    """Progress to the caller; the failure that the engine names, if any."""
    failure = None
    for line in _objects(child):
        if "progress" in line:
            on_progress(Progress.model_validate(line["progress"]))
        elif "failure" in line:
            failure = Failure.model_validate(line["failure"])
    child.wait()
    return failure


def _objects(child: subprocess.Popen[bytes]) -> Iterator[Mapping[str, object]]:
    """The lines that are JSON objects; a library that prints to stdout does not break the protocol."""
    for line in child.stdout or ():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _epitaph(code: int, words: IO[bytes]) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    words.seek(max(0, words.seek(0, os.SEEK_END) - LAST_WORDS))
    return f"the engine {how}; its last words: {words.read().decode(errors='replace').strip() or 'none'}"
