"""`python -m worker.engine`: one job in this process, for the commands' `--local` and for looking at the engine.

In: paths and options on the command line. Out: one JSON object a line on standard output ({"progress": ...}, at the end
{"done": ...} or {"failure": ...}), the job's files in the work folder. Exit code 0, or 3 where the job failed.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

from schemas.errors import EspalierError
from schemas.files import ARTIFACT
from schemas.inspect_request import InspectRequest
from schemas.job import Progress, Verdict
from schemas.kinds import REQUESTS, JobRequest
from schemas.parse import parse
from schemas.request import PruneRequest

# Busy-waiting threads of two libraries on few cores cost several times the work; set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from worker.engine.embedded.check import check
from worker.engine.inspect import inspect
from worker.engine.run import InputFile, Inputs, Limits, prune
from worker.engine.sweep import sweep
from worker.engine.verify import verify_artifact

DATA_BYTES = 4 << 30


def main(arguments: list[str]) -> int:
    given = _parser().parse_args(arguments)
    try:
        text = Path(given.options[1:]).read_text(encoding="utf-8") if given.options.startswith("@") else given.options
        external = dict(_located(one) for one in given.external)
        inputs = Inputs(
            model=_input(given.model),
            external={location: _input(path) for location, path in external.items()},
            calibration=_input(given.calibration) if given.calibration else None,
            evaluation=_input(given.evaluation) if given.evaluation else None,
            history=_input(given.history) if given.history else None,
        )
        given.workdir.mkdir(parents=True, exist_ok=True)
        threads = given.threads or os.cpu_count() or 1
        limits = Limits(threads, DATA_BYTES, torchscript=given.trust_torchscript)
        met = _work(parse(text, REQUESTS[given.kind]), inputs, given.workdir, limits)
    except EspalierError as error:
        _say("failure", error.failure.model_dump())
        return 3
    _say("done", {"verdict": met.model_dump()})
    return 0


def _work(request: JobRequest, inputs: Inputs, workdir: Path, limits: Limits) -> Verdict:
    """The job of the request's kind; the models that it made are verified."""
    if isinstance(request, InspectRequest):
        inspect(request, inputs, workdir, limits, _say_progress)
        return Verdict(met=True)
    if isinstance(request, PruneRequest):
        report = prune(request, inputs, workdir, limits, _say_progress)
        if request.verify_on is not None:
            check(workdir, _say_progress)
        verify_artifact(workdir / ARTIFACT, workdir)
        return report.verdict
    many = sweep(request, inputs, workdir, limits, _say_progress)
    for point in many.points:
        if point.artifact:
            verify_artifact(workdir / point.artifact, workdir)
    return many.verdict


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m worker.engine", description="One job on one model in this process."
    )
    parser.add_argument("--kind", choices=sorted(REQUESTS), default="prune", help="what kind of job")
    parser.add_argument("--model", type=Path, required=True, help="the ONNX file")
    parser.add_argument("--external", action="append", default=[], metavar="LOCATION=FILE", help="external data")
    parser.add_argument("--calibration", type=Path, help="samples to prune with: .npz, .npy or .csv")
    parser.add_argument("--evaluation", type=Path, help="samples to judge with")
    parser.add_argument("--history", type=Path, help="how training changed the weights: .npz")
    parser.add_argument("--options", default="{}", help="JSON, or @FILE")
    parser.add_argument("--workdir", type=Path, required=True, help="where the artifact and the reports go")
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument(
        "--trust-torchscript", action="store_true", help="load a TorchScript model, which is a program, unconfined"
    )
    return parser


def _located(text: str) -> tuple[str, Path]:
    location, equals, path = text.partition("=")
    if not equals:
        raise EspalierError("body_invalid", f"--external wants LOCATION=FILE, got {text!r}")
    return location, Path(path)


def _input(path: Path) -> InputFile:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return InputFile(path, digest, path.name, path.stat().st_size)
    except OSError as error:
        raise EspalierError("body_invalid", f"cannot read the file: {error.strerror}", where=str(path)) from None


def _say_progress(progress: Progress) -> None:
    _say("progress", progress.model_dump())


def _say(what: str, value: object) -> None:
    sys.stdout.write(json.dumps({what: value}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
