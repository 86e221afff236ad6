"""Jobs: their state and their events.

In: a job's id and its owner. Out: the job (with an entity tag, and on request only once its state has changed), a
page of jobs, its events as they happen. Refused: other owners' jobs, which are as absent as any; deleting what runs.
"""

import re
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from schemas.errors import EspalierError
from schemas.job import Job, JobPage, JobState, ResultManifest
from service.body import until_gone
from service.context import Here, Owner, Service
from service.downloads import matches
from service.events import BEGINNING, stream
from service.openapi import problems
from service.views import etag_of, job_of
from state.blobs import result_key
from state.reaper import discard
from state.records import JobRecord, is_event_id

router = APIRouter(tags=["jobs"])

MAX_WAIT_SECONDS = 60
MAX_PAGE = 200
_JOB_ID = re.compile(r"[0-9a-f]{32}")

JobId = Annotated[str, Path(description="32 hex digits")]


def found(service: Service, job_id: str, owner: str) -> JobRecord:
    if not _JOB_ID.fullmatch(job_id):
        raise EspalierError("not_found", "there is no such job", where=job_id[:100])
    return service.jobs.get(job_id, owner)


@router.get("/jobs", response_model=JobPage, summary="List your jobs", responses=problems(400, 401, 403, 422, 503))
def list_jobs(
    service: Here,
    owner: Owner,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Jobs on one page.")] = 50,
    cursor: Annotated[str | None, Query(description="`next` of the page before.")] = None,
) -> JobPage:
    """Newest first."""
    records, following = service.jobs.page(owner, limit=limit, cursor=cursor)
    return JobPage(jobs=tuple(job_of(one, service.settings.public_url) for one in records), next=following)


@router.get(
    "/jobs/{job_id}",
    response_model=Job,
    summary="Look at a job",
    responses={304: {"description": "Unchanged"}, **problems(401, 403, 404, 422, 503)},
)
async def get_job(
    request: Request,
    service: Here,
    owner: Owner,
    job_id: JobId,
    wait: Annotated[
        float, Query(ge=0, le=MAX_WAIT_SECONDS, description="Answer when the state changes, or after these seconds.")
    ] = 0.0,
    if_none_match: Annotated[str, Header(description="The ETag of what you have: 304 if that is still so.")] = "",
) -> Response:
    """The job as it stands. With `?wait=` the answer comes as soon as the state changes (at once if it has ended)."""
    last_id = await service.feed.last_id(job_id) if wait and _JOB_ID.fullmatch(job_id) else BEGINNING
    record = await run_in_threadpool(found, service, job_id, owner)
    body, etag = _shown(service, record)
    known = not if_none_match or matches(if_none_match, etag)
    if wait and known and not record.state.finished:
        service.feed.check_room()
        with service.feed.listening():
            if not await until_gone(request, service.feed.state_change(job_id, last_id, wait)):
                raise ClientDisconnect
        body, etag = _shown(service, await run_in_threadpool(found, service, job_id, owner))
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if if_none_match and matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, "application/json")


def _shown(service: Service, record: JobRecord) -> tuple[bytes, str]:
    body = job_of(record, service.settings.public_url).model_dump_json(by_alias=True).encode()
    return body, etag_of(body)


@router.post(
    "/jobs/{job_id}/cancel",
    response_model=Job,
    summary="Cancel a job",
    responses={202: {"model": Job, "description": "The worker has been asked to stop"}, **problems(401, 403, 404, 503)},
)
def cancel_job(service: Here, owner: Owner, job_id: JobId) -> Response:
    """200 with the job once it has ended (a queued one at once), 202 while its worker stops it."""
    found(service, job_id, owner)
    record, orphans = service.jobs.cancel(job_id, owner)
    if record.state is JobState.CANCELLED:
        _keep_ending(service, record)
    discard(service.jobs, service.blobs, orphans)
    status = 200 if record.state.finished else 202
    return Response(_shown(service, record)[0], status, media_type="application/json")


def _keep_ending(service: Service, record: JobRecord) -> None:
    """No worker wrote how this job ended; without a manifest, a rebuilt index would queue it again."""
    key = result_key(record.manifest.id)
    if service.blobs.get_document(key) is not None or record.finished_at is None:
        return
    ending = ResultManifest(
        id=record.manifest.id,
        attempt=record.attempt,
        finished_at=record.finished_at,
        state=record.state,
        failure=record.failure,
    )
    service.blobs.put_document(key, ending.model_dump_json().encode())


@router.delete(
    "/jobs/{job_id}",
    status_code=204,
    response_class=Response,
    summary="Delete a job",
    responses=problems(401, 403, 404, 409, 503),
)
def delete_job(service: Here, owner: Owner, job_id: JobId) -> Response:
    """Forgets the job and its results. A queued job is cancelled; a running one must be cancelled first."""
    found(service, job_id, owner)
    orphans = service.jobs.delete(job_id, owner)
    service.blobs.delete_documents(result_key(job_id).rpartition("/")[0] + "/")
    discard(service.jobs, service.blobs, orphans)
    return Response(status_code=204)


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    summary="Follow a job",
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Events until the end"},
        204: {"description": "The job has ended and you have seen its last event"},
        **problems(401, 403, 404, 422, 503),
    },
)
async def follow_job(
    service: Here,
    owner: Owner,
    job_id: JobId,
    last_event_id: Annotated[str, Header(description="Replays what came after this event.")] = BEGINNING,
) -> Response:
    """Server-sent events `state` and `progress`, from the first or after `Last-Event-ID`, up to the end of the job."""
    if not is_event_id(last_event_id):
        raise EspalierError("request_invalid", f"{last_event_id[:100]!r} is no event's id", where="Last-Event-ID")
    record = await run_in_threadpool(found, service, job_id, owner)
    service.feed.check_room()
    if record.state.finished and not await service.feed.after(job_id, last_event_id, 0):
        return Response(status_code=204)
    events = stream(service.feed, service.jobs, job_id, owner, last_event_id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, headers=headers, media_type="text/event-stream")
