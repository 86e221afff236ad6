"""`espalier prune`: one model in, one smaller model and its report out.

In: the parsed arguments. Out: files, a table on stdout (or one JSON object), and an exit code: 0 done, 1 a constraint
was not met. What fails leaves as an `EspalierError`, and no file is left half written.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import EspalierError, Failure
from schemas.files import ARTIFACT
from schemas.job import Job, JobState
from schemas.report import Report
from schemas.request import PruneRequest
from service.client import Client, ReportKind
from service.fetch_command import copy, copy_all, fetch_all
from service.files import replacing
from service.local import run_local
from service.options import gather
from service.progress import ProgressLine
from service.summary import report_table

KINDS: dict[str, ReportKind] = {".json": "json", ".html": "html", ".htm": "html", ".md": "md"}


@dataclass(frozen=True)
class Task:
    """What one call is to do; every file is known to exist and every option to be valid."""

    request: PruneRequest
    model: Path
    calibration: Path | None
    evaluation: Path | None
    history: Path | None
    external: Mapping[str, Path]
    out: Path
    reports: tuple[Path, ...]
    everything: Path | None


def task_of(arguments: argparse.Namespace) -> Task:
    """The arguments, checked before anything is uploaded or started."""
    external = locations(arguments.external)
    given = (arguments.model, arguments.data, arguments.eval, arguments.history, *external.values())
    existing(*given, arguments.options)
    for path in arguments.report:
        if path.suffix.lower() not in KINDS:
            raise UsageError(f"--report {path}: the suffix chooses the form; use .json, .html or .md")
    out = arguments.out or Path(f"{arguments.model.stem}.pruned.onnx")
    read = {path.resolve() for path in given if path}
    for path in (out, *arguments.report):
        if path.resolve() in read:
            raise UsageError(f"{path} would be overwritten, and it is read as an input; write somewhere else")
    if arguments.all and arguments.all.resolve() in {path.parent for path in read}:
        raise UsageError(f"--all {arguments.all}: an input lies there, and might be overwritten; name another folder")
    request = gather(arguments.options, arguments.set)
    if request.needs_data() and arguments.data is None:
        raise EspalierError("calibration_required", "add --data CAL.npz", where="--data")
    if request.needs_history() and arguments.history is None:
        raise EspalierError("history_required", "add --history HISTORY.npz", where="--history")
    return Task(
        request,
        arguments.model,
        arguments.data,
        arguments.eval,
        arguments.history,
        external,
        out,
        tuple(arguments.report),
        arguments.all,
    )


class UsageError(Exception):
    """The command line itself is wrong; exit code 2."""


def existing(*paths: Path | None) -> None:
    """Every file that is named is there."""
    for path in paths:
        if path is not None and not path.is_file():
            raise UsageError(f"there is no file {path}")


def locations(texts: Sequence[str]) -> dict[str, Path]:
    """The files of external data by the locations that the model names."""
    return dict(_location(text) for text in texts)


def _location(text: str) -> tuple[str, Path]:
    location, equals, path = text.partition("=")
    if not equals or not location or not path:
        raise UsageError(f"--external takes LOCATION=FILE, for example weights.bin=weights.bin; got {text!r}")
    return location, Path(path)


def prune(arguments: argparse.Namespace) -> int:
    task = task_of(arguments)
    progress = ProgressLine(sys.stderr)
    try:
        report = _local(task, arguments, progress) if arguments.local else _remote(task, arguments, progress)
    finally:
        progress.end()
    if arguments.json:
        print(json.dumps(_answer(task, report)))
    else:
        print(report_table(report))
        weights = [task.out.parent / name for name in report.provenance.artifact_external_sha256]
        written = [task.out, *weights, *task.reports, *([task.everything] if task.everything else [])]
        print(f"\n{', '.join(map(str, written))} written")
    return 0 if report.verdict.met else 1


def _answer(task: Task, report: Report) -> dict[str, object]:
    wanted = {"verdict", "before", "after", "exactness", "warnings"}
    files = {"out": str(task.out), "reports": [str(path) for path in task.reports]}
    return {**files, **report.model_dump(mode="json", include=wanted)}


def _local(task: Task, arguments: argparse.Namespace, progress: ProgressLine) -> Report:
    with tempfile.TemporaryDirectory(prefix="espalier-") as name:
        folder = Path(name)
        run_local(
            task.request,
            model=task.model,
            calibration=task.calibration,
            evaluation=task.evaluation,
            history=task.history,
            external=task.external,
            workdir=folder,
            threads=arguments.threads,
            trust_torchscript=arguments.trust_torchscript,
            on_progress=progress,
        )
        report = Report.model_validate_json((folder / "report.json").read_bytes())
        for path in task.reports:
            copy(folder / f"report.{KINDS[path.suffix.lower()]}", path)
        for name in report.provenance.artifact_external_sha256:
            copy(folder / name, task.out.parent / name)
        copy(folder / ARTIFACT, task.out)
        if task.everything:
            copy_all(folder, task.everything)
    return report


def _remote(task: Task, arguments: argparse.Namespace, progress: ProgressLine) -> Report:
    with Client(arguments.server, arguments.api_key) as client:
        job = client.submit(
            task.model,
            task.request,
            calibration=task.calibration,
            evaluation=task.evaluation,
            history=task.history,
            external=task.external,
        )
        job = followed(client, job, arguments.server, progress)
        report = client.report(job.id)
        for path in task.reports:
            with replacing(path) as file:
                file.write(client.report_document(job.id, KINDS[path.suffix.lower()]))
        client.artifact(job.id, task.out)
        if task.everything:
            fetch_all(client, job.id, task.everything)
    return report


def followed(client: Client, job: Job, server: str, progress: ProgressLine) -> Job:
    """The job once it has succeeded. Ctrl-C cancels it."""
    try:
        print(f"job {job.id} on {server}", file=sys.stderr, flush=True)
        job = client.wait(job.id, progress)
    except KeyboardInterrupt:
        progress.end()
        client.cancel(job.id)
        print(f"job {job.id} cancelled", file=sys.stderr)
        raise
    progress.end()
    if job.state is not JobState.SUCCEEDED:
        raise EspalierError.of(job.failure or _cancelled(job.id))
    return job


def _cancelled(job_id: str) -> Failure:
    return EspalierError("cancelled", f"job {job_id} was cancelled", where=job_id).failure
