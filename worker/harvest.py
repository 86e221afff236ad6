"""What a finished child left in its work folder: checked without parsing a model.

In: the folder. Out: `Harvest`: the job's files with size and hash, and the verdict. The files are those of its kind,
and further ones that the job's own list names. Refused (`artifact_rejected`): a file that is missing, empty, too large,
not a plain file or known under a second name, a list of names that are none, a report that does not fit its schema, and
one that speaks of another artifact.
"""

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from schemas.errors import EspalierError
from schemas.files import ARTIFACT, FILE_LIST, REPORTS, FileList
from schemas.inspection import Inspection
from schemas.job import BlobRef, JobResult, Verdict
from schemas.report import Report
from schemas.request import JobKind
from schemas.sweep_report import SweepReport

REPORT_BYTES = 64 * 1024 * 1024
READ_HERE = ("report.json", FILE_LIST)
LIST_BYTES = 64 * 1024
FURTHER_SHARE = 4  # all further files together, in multiples of the largest that one may be
NAMES: dict[JobKind, tuple[str, ...]] = {
    "prune": (ARTIFACT, *REPORTS),
    "inspect": REPORTS,
    "sweep": REPORTS,
    "compare": REPORTS,
}

Document = TypeVar("Document", Report, Inspection, SweepReport, FileList)


@dataclass(frozen=True)
class Harvest:
    """`files` maps the names of the result's files to their paths, in the order of `JobResult.all`."""

    result: JobResult
    files: dict[str, Path]


def harvest(folder: Path, kind: JobKind, *, model_name: str, most_bytes: int) -> Harvest:
    """Check and hash what is there."""
    found = {}
    further = _further(folder, most_bytes)
    for name in NAMES[kind]:
        sha, size, text = _read(folder / name, most_bytes if name == ARTIFACT else REPORT_BYTES)
        found[name] = BlobRef(blob=sha, bytes=size, name=name)
        if name == "report.json":
            verdict = _verdict(text, kind, [*found.values(), *further])
    if ARTIFACT in found:
        stem = Path(model_name).stem or "model"
        found[ARTIFACT] = found[ARTIFACT].model_copy(update={"name": f"{stem}.pruned.onnx"})
    result = JobResult(
        artifact=found.get(ARTIFACT),
        report_json=found["report.json"],
        report_html=found["report.html"],
        report_md=found["report.md"],
        files=further,
        verdict=verdict,
    )
    return Harvest(result, {name: folder / name for name in result.named()})


def _further(folder: Path, most_bytes: int) -> tuple[BlobRef, ...]:
    """The files that the job lists, if it has left a list."""
    if not os.path.lexists(folder / FILE_LIST):
        return ()
    found: list[BlobRef] = []
    left = FURTHER_SHARE * most_bytes
    for name in _document(_read(folder / FILE_LIST, LIST_BYTES)[2], FileList, FILE_LIST).files:
        sha, size, _ = _read(folder / name, min(most_bytes, left))
        left -= size
        found.append(BlobRef(blob=sha, bytes=size, name=name))
    return tuple(found)


def _verdict(text: bytes, kind: JobKind, files: Sequence[BlobRef]) -> Verdict:
    """What the report says of the constraints, once it is found to be of its kind and about these files."""
    if kind == "inspect":
        _document(text, Inspection)
        return Verdict(met=True)
    if kind == "prune":
        report = _document(text, Report)
        source, verdict = report.provenance, report.verdict
        spoken_of = {ARTIFACT: source.artifact_sha256, **source.artifact_external_sha256}
    else:
        many = _document(text, SweepReport)
        kept = [point for point in many.points if point.artifact]
        spoken_of = {point.artifact or "": point.artifact_sha256 or "" for point in kept}
        spoken_of |= {name: sha for point in kept for name, sha in point.artifact_external_sha256.items()}
        verdict = many.verdict
    there = {ref.name: ref.blob.removeprefix("sha256:") for ref in files}
    for name, sha in spoken_of.items():
        if there.get(name) != sha.removeprefix("sha256:"):
            raise EspalierError("artifact_rejected", f"the report speaks of another file {name}", where="report.json")
    return verdict


def _read(path: Path, most_bytes: int) -> tuple[str, int, bytes]:
    """Hash, size and, of what is read here, content. A link or a pipe must not make us read or wait for anything."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise EspalierError("artifact_rejected", f"cannot be read: {error.strerror}", where=path.name) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise EspalierError("artifact_rejected", "is not a plain file of its own", where=path.name)
    with os.fdopen(descriptor, "rb") as file:
        if not 0 < status.st_size <= most_bytes:
            detail = f"has {status.st_size} bytes; 1 to {most_bytes} are right"
            raise EspalierError("artifact_rejected", detail, where=path.name)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        return f"sha256:{digest}", status.st_size, file.read() if path.name in READ_HERE else b""


def _document(text: bytes, kind: type[Document], where: str = "report.json") -> Document:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        detail = f"{'/'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise EspalierError("artifact_rejected", detail, where=where) from None
