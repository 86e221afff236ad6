"""What a job made: its artifact, its report in each form, and every file by its name.

In: a job's id and its owner. Out: files, with entity tags, ranges and digests. Refused: other owners' jobs, which are
as absent as any; results that are not there yet or never will be; names of no file.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from schemas.errors import EspalierError, nearest
from schemas.files import ARTIFACT, REPORTS, ResultFile, ResultFiles
from schemas.inspection import Inspection
from schemas.job import JobResult
from schemas.report import Report
from schemas.sweep_report import SweepReport
from service.accept import preferred
from service.context import Here, Owner, Service
from service.downloads import Download, media_type, safe_stem, send_blob
from service.openapi import problems
from service.routes.jobs import JobId, found
from state.records import JobRecord

router = APIRouter(tags=["jobs"])

# What is drawn from names in the uploaded model may show, and do nothing else.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
_REPORT_TYPES = {"application/json": "json", "text/html": "html", "text/markdown": "md"}
_REPORT_CONTENT = {media: {"schema": {"type": "string"}} for media in _REPORT_TYPES if media != "application/json"}
_FILE_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The range asked for"},
    304: {"description": "You have it"},
    **problems(401, 403, 404, 409, 416, 503),
}
_REPORT_ANSWERS: dict[int | str, dict[str, Any]] = {
    **_FILE_ANSWERS,
    200: {"content": _REPORT_CONTENT},
}


@router.get(
    "/jobs/{job_id}/artifacts",
    response_model=ResultFiles,
    summary="List the files that a job made",
    responses=problems(401, 403, 404, 409, 503),
)
def artifacts(service: Here, owner: Owner, job_id: JobId) -> ResultFiles:
    """Name, size, hash and media type of each: the artifact, the reports, and whatever was made beside them."""
    named = _result_of(found(service, job_id, owner)).named()
    return ResultFiles(
        artifacts=tuple(
            ResultFile(name=name, bytes=ref.bytes, sha256=ref.blob.removeprefix("sha256:"), media_type=media_type(name))
            for name, ref in named.items()
        )
    )


@router.head("/jobs/{job_id}/artifacts/{name}", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/artifacts/{name}",
    response_class=Response,
    summary="Fetch one file that a job made",
    responses=_FILE_ANSWERS,
)
async def named_artifact(
    request: Request,
    service: Here,
    owner: Owner,
    job_id: JobId,
    name: Annotated[str, Path(description="A name from the list.", examples=["artifact.onnx"])],
) -> Response:
    """The file as it was listed. ETag is its sha256; one byte range; Content-Digest and Repr-Digest (RFC 9530)."""
    record = await run_in_threadpool(found, service, job_id, owner)
    return await _send(request, service, record, name, name)


@router.head("/jobs/{job_id}/artifact", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/artifact",
    response_class=Response,
    summary="Fetch the pruned model",
    responses=_FILE_ANSWERS,
)
async def artifact(request: Request, service: Here, owner: Owner, job_id: JobId) -> Response:
    """The ONNX file. ETag is its sha256; one byte range; Content-Digest and Repr-Digest (RFC 9530)."""
    record = await run_in_threadpool(found, service, job_id, owner)
    if _result_of(record).artifact is None:
        raise EspalierError(
            "job_has_no_result",
            f"a job of kind {record.manifest.kind} makes no model",
            where=job_id,
            hint=f"See /jobs/{job_id}/artifacts for what it makes.",
        )
    stem = safe_stem(record.manifest.inputs.model.name)
    return await _send(request, service, record, ARTIFACT, f"{stem}.pruned.onnx")


@router.head("/jobs/{job_id}/report", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/report",
    response_model=Report | Inspection | SweepReport,
    summary="Fetch the report in the form that Accept asks for",
    responses=_REPORT_ANSWERS | problems(406),
)
async def report(
    request: Request,
    service: Here,
    owner: Owner,
    job_id: JobId,
    accept: Annotated[str, Header(description="application/json (the default), text/html or text/markdown.")] = "",
) -> Response:
    """What was removed, what it cost, and the proof; of an inspection, what could go and what stays."""
    chosen = preferred(accept, tuple(_REPORT_TYPES))
    response = await _report(request, service, owner, job_id, _REPORT_TYPES[chosen])
    response.headers["Vary"] = "Accept"
    return response


@router.head("/jobs/{job_id}/report.{suffix}", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/report.{suffix}",
    response_model=Report | Inspection | SweepReport,
    summary="Fetch the report in one form",
    responses=_REPORT_ANSWERS,
)
async def report_as(
    request: Request,
    service: Here,
    owner: Owner,
    job_id: JobId,
    suffix: Annotated[str, Path(description="json, html or md", json_schema_extra={"enum": ["json", "html", "md"]})],
) -> Response:
    """The same report as JSON, as a page, or as Markdown for a pull request."""
    if suffix not in _REPORT_TYPES.values():
        raise EspalierError("not_found", f"there is no report.{suffix[:20]}; known: json, html, md", where="report")
    return await _report(request, service, owner, job_id, suffix)


async def _report(request: Request, service: Service, owner: str, job_id: str, suffix: str) -> Response:
    record = await run_in_threadpool(found, service, job_id, owner)
    stem = safe_stem(record.manifest.inputs.model.name)
    return await _send(request, service, record, f"report.{suffix}", f"{stem}.report.{suffix}")


async def _send(request: Request, service: Service, record: JobRecord, name: str, filename: str) -> Response:
    """A file of the result, under the name that it is saved by."""
    named = _result_of(record).named()
    if name not in named:
        detail = f"the job made no file {name[:100]!r}; {nearest(name[:100], tuple(named))}"
        raise EspalierError("not_found", detail, where=record.manifest.id)
    download = Download(named[name], media_type(name), filename, inline=name in REPORTS)
    response = await send_blob(request, service.blobs, download)
    response.headers["Content-Security-Policy"] = _POLICY
    return response


def _result_of(record: JobRecord) -> JobResult:
    """What a succeeded job left; everything else is a conflict with the state of the job."""
    if record.result is not None:
        return record.result
    job_id = record.manifest.id
    if record.state.finished:
        why = record.failure.detail if record.failure else "it left none"
        raise EspalierError("job_has_no_result", f"the job is {record.state}: {why}", where=job_id)
    raise EspalierError("job_not_finished", f"the job is {record.state}", where=job_id)
