"""Blobs: files by their content, uploaded once as a raw stream and named in any number of jobs.

In: `sha256:<hex>` and, for PUT, the bytes. Out: 201 for a new blob, 200 for one that the caller has already. Refused:
a name that is not a hash, bytes that are not what the name says, and other owners' blobs, which are as absent as any.
The whole body is hashed even where the content is known: to name a hash is not to have the file.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from schemas.errors import EspalierError
from schemas.job import BLOB_PATTERN
from service.body import pieces
from service.context import Here, Owner, Service
from service.openapi import BLOB_BODY, problems
from state.blobs import BLOB_NAME, BlobWriter
from state.reaper import discard

router = APIRouter(tags=["blobs"])

Name = Annotated[str, Path(description="sha256:<64 lower-case hex digits>", examples=["sha256:" + "0" * 64])]


class Blob(BaseModel):
    """An uploaded file."""

    blob: str = Field(pattern=BLOB_PATTERN, description="sha256:<hex>")
    bytes: int = Field(ge=0)


def _checked(name: str) -> str:
    if not BLOB_NAME.fullmatch(name):
        raise EspalierError("blob_name_invalid", f"{name[:100]!r}", where="blob")
    return name


@router.put(
    "/blobs/{name}",
    status_code=201,
    response_model=Blob,
    summary="Upload a file",
    openapi_extra={"requestBody": BLOB_BODY},
    responses={200: {"model": Blob, "description": "You had it already"}, **problems(400, 401, 403, 413, 422, 503)},
)
async def put_blob(request: Request, service: Here, owner: Owner, name: Name) -> Response:
    """Streams the body to the storage in constant memory; it must hash to its name."""
    blob = _checked(name)
    had = await run_in_threadpool(service.jobs.owns_blob, blob, owner)
    with await run_in_threadpool(service.blobs.writer) as writer:
        async for piece in pieces(request):
            await run_in_threadpool(writer.write, piece)
        size = await run_in_threadpool(_keep, service, owner, blob, writer, had)
    return Response(Blob(blob=blob, bytes=size).model_dump_json(), 200 if had else 201, media_type="application/json")


def _keep(service: Service, owner: str, blob: str, writer: BlobWriter, had: bool) -> int:
    """Refers to the content before its file is in place, as `state.blobs` asks."""
    if writer.sha != blob:
        raise EspalierError("blob_hash_mismatch", f"the body hashes to {writer.sha}", where=blob)
    service.jobs.add_blob(blob, owner)
    placed = False
    try:
        _, size = writer.commit(blob)
        placed = True
    finally:
        if not placed and not had:
            discard(service.jobs, service.blobs, service.jobs.drop_blob(blob, owner))
    return size


@router.head("/blobs/{name}", summary="Ask whether you have a file here", responses=problems(400, 401, 403, 404, 503))
def head_blob(service: Here, owner: Owner, name: Name) -> Response:
    """200 with its size in Content-Length, or 404."""
    blob = _checked(name)
    size = service.blobs.exists(blob) if service.jobs.owns_blob(blob, owner) else None
    if size is None:
        raise EspalierError("blob_not_found", "you have no such blob", where=blob)
    headers = {"Content-Length": str(size), "ETag": f'"{blob.removeprefix("sha256:")}"'}
    return Response(headers=headers, media_type="application/octet-stream")


@router.delete(
    "/blobs/{name}",
    status_code=204,
    response_class=Response,
    summary="Let go of a file",
    responses=problems(400, 401, 403, 404, 503),
)
def delete_blob(service: Here, owner: Owner, name: Name) -> Response:
    """Unfinished jobs that need the file keep it until they end."""
    blob = _checked(name)
    if not service.jobs.owns_blob(blob, owner):
        raise EspalierError("blob_not_found", "you have no such blob", where=blob)
    discard(service.jobs, service.blobs, service.jobs.drop_blob(blob, owner))
    return Response(status_code=204)
