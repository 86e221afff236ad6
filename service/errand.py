"""One job of the command line: the files that it reads, the place where it is done, and what it leaves.

In: a request, files that are known to exist, and the parsed arguments. Out: within a block, what the job left: its
report, its files. Refused: file names that do not exist or would be overwritten, data that the request needs and lacks,
and whatever the job is refused for. Ctrl-C cancels it.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel

from schemas.errors import EspalierError, Failure
from schemas.files import ARTIFACT
from schemas.job import Job, JobState
from schemas.kinds import JobRequest
from schemas.report import Report
from service.client import Client, ReportKind
from service.fetch_command import copy, copy_all, fetch_all
from service.files import replacing
from service.local import run_local
from service.progress import ProgressLine

KINDS: dict[str, ReportKind] = {".json": "json", ".html": "html", ".htm": "html", ".md": "md"}

Document = TypeVar("Document", bound=BaseModel)


class UsageError(Exception):
    """The command line itself is wrong; exit code 2."""


@dataclass(frozen=True)
class Files:
    """What a job reads; every file is known to exist."""

    model: Path
    calibration: Path | None
    evaluation: Path | None
    history: Path | None
    external: Mapping[str, Path]

    def check_output(self, path: Path) -> None:
        """Refuses to write over what is read."""
        if path.resolve() in self._read():
            raise UsageError(f"{path} would be overwritten, and it is read as an input; write somewhere else")

    def check_folder(self, flag: str, folder: Path | None) -> None:
        """Refuses a folder in which a file of the result might have an input's name."""
        if folder and folder.resolve() in {path.parent for path in self._read()}:
            raise UsageError(f"{flag} {folder}: an input lies there, and might be overwritten; name another folder")

    def check_data(self, request: JobRequest) -> None:
        """Refuses what the service would refuse once all had been uploaded."""
        if request.needs_data() and self.calibration is None:
            raise EspalierError("calibration_required", "add --data CAL.npz", where="--data")
        if request.needs_history() and self.history is None:
            raise EspalierError("history_required", "add --history HISTORY.npz", where="--history")

    def _read(self) -> set[Path]:
        given = (self.model, self.calibration, self.evaluation, self.history, *self.external.values())
        return {path.resolve() for path in given if path}


def files_of(arguments: argparse.Namespace) -> Files:
    """The files that the arguments name; a command without `--eval` or `--history` has none of these."""
    external = dict(_location(text) for text in arguments.external)
    evaluation, history = getattr(arguments, "eval", None), getattr(arguments, "history", None)
    files = Files(arguments.model, arguments.data, evaluation, history, external)
    for path in (files.model, files.calibration, evaluation, history, arguments.options, *external.values()):
        if path is not None and not path.is_file():
            raise UsageError(f"there is no file {path}")
    return files


def reports_of(arguments: argparse.Namespace, files: Files) -> tuple[Path, ...]:
    """Where reports go; the suffix chooses the form."""
    for path in arguments.report:
        if path.suffix.lower() not in KINDS:
            raise UsageError(f"--report {path}: the suffix chooses the form; use .json, .html or .md")
        files.check_output(path)
    return tuple(arguments.report)


def _location(text: str) -> tuple[str, Path]:
    location, equals, path = text.partition("=")
    if not equals or not location or not path:
        raise UsageError(f"--external takes LOCATION=FILE, for example weights.bin=weights.bin; got {text!r}")
    return location, Path(path)


class Left(Protocol):
    """What a job left that has succeeded."""

    def document(self, kind: type[Document]) -> Document:
        """The report, as the kind of document that it is."""

    def report(self, path: Path) -> None:
        """The report into a file, in the form of its suffix."""

    def artifact(self, path: Path) -> None:
        """The pruned model into a file, and beside it the file of its weights, if it has one."""

    def everything(self, folder: Path) -> None:
        """Every file, by its own name."""


@dataclass(frozen=True)
class LeftHere:
    """In the work folder of a job that ran here."""

    folder: Path

    def document(self, kind: type[Document]) -> Document:
        return kind.model_validate_json((self.folder / "report.json").read_bytes())

    def report(self, path: Path) -> None:
        copy(self.folder / f"report.{KINDS[path.suffix.lower()]}", path)

    def artifact(self, path: Path) -> None:
        for name in self.document(Report).provenance.artifact_external_sha256:
            copy(self.folder / name, path.parent / name)
        copy(self.folder / ARTIFACT, path)

    def everything(self, folder: Path) -> None:
        copy_all(self.folder, folder)


@dataclass(frozen=True)
class LeftThere:
    """On the service."""

    client: Client
    job_id: str

    def document(self, kind: type[Document]) -> Document:
        return self.client.document(self.job_id, kind)

    def report(self, path: Path) -> None:
        with replacing(path) as file:
            file.write(self.client.report_document(self.job_id, KINDS[path.suffix.lower()]))

    def artifact(self, path: Path) -> None:
        self.client.artifact(self.job_id, path)

    def everything(self, folder: Path) -> None:
        fetch_all(self.client, self.job_id, folder)


@contextmanager
def done(request: JobRequest, files: Files, arguments: argparse.Namespace) -> Iterator[Left]:
    """The job, done where the arguments say. Progress goes to stderr."""
    progress = ProgressLine(sys.stderr)
    try:
        if arguments.local:
            with tempfile.TemporaryDirectory(prefix="espalier-") as name:
                _here(request, files, arguments, Path(name), progress)
                yield LeftHere(Path(name))
        else:
            with Client(arguments.server, arguments.api_key) as client:
                yield LeftThere(client, _there(request, files, arguments.server, client, progress))
    finally:
        progress.end()


def _here(
    request: JobRequest, files: Files, arguments: argparse.Namespace, folder: Path, progress: ProgressLine
) -> None:
    run_local(
        request,
        model=files.model,
        calibration=files.calibration,
        evaluation=files.evaluation,
        history=files.history,
        external=files.external,
        workdir=folder,
        threads=arguments.threads,
        trust_torchscript=arguments.trust_torchscript,
        on_progress=progress,
    )
    progress.end()


def _there(request: JobRequest, files: Files, server: str, client: Client, progress: ProgressLine) -> str:
    """The id of the job once it has succeeded."""
    job = client.submit(
        files.model,
        request,
        calibration=files.calibration,
        evaluation=files.evaluation,
        history=files.history,
        external=files.external,
    )
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
        raise EspalierError.of(job.failure or _cancelled(job))
    return job.id


def _cancelled(job: Job) -> Failure:
    return EspalierError("cancelled", f"job {job.id} was cancelled", where=job.id).failure


def listed(paths: Sequence[Path | None]) -> str:
    """The files that were written, for the last line."""
    return ", ".join(str(path) for path in paths if path)
