"""POST /prune: a model, data and options become a queued job.

In: a multipart form, or a JSON object that names blobs. Out: 202 with the job, its address in `Location`. Refused:
another content type, a body that cannot be read, a request without a model, options that are not valid, and what
`service.submit` refuses. A refused request leaves nothing on disk.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from schemas.errors import EspalierError, FieldError, nearest
from schemas.job import BLOB_PATTERN, BlobRef, Job, JobInputs
from schemas.request import parse_options
from service.body import pieces, whole
from service.context import Here, Owner, Service
from service.errors import pointer
from service.multipart import MAX_NAME_CHARS, FilePart, Form, FormReader, boundary_of
from service.openapi import PRUNE_BODY, problems
from service.submit import Order, idempotency_key, owned_blob, place
from service.views import job_of
from state.records import JobRecord

MAX_JSON_BYTES = 4 * 1024 * 1024
MAX_EXTERNAL_FILES = 1000
MAX_LOCATION_CHARS = 500
POLL_SECONDS = 1

router = APIRouter(tags=["prune"])


class DataFile(BaseModel):
    """An uploaded blob as data."""

    model_config = ConfigDict(extra="forbid")

    blob: str = Field(pattern=BLOB_PATTERN, description="sha256:<hex>")
    name: str = Field(default="", max_length=MAX_NAME_CHARS, description="What people call the file.")


class ModelFile(DataFile):
    """An uploaded blob as the model, with the files that it names as external data."""

    external: dict[str, Annotated[str, Field(pattern=BLOB_PATTERN)]] = Field(
        default_factory=dict, max_length=MAX_EXTERNAL_FILES, description="location in the model -> sha256:<hex>"
    )


class PruneBody(BaseModel):
    """The JSON form of POST /prune. `options` are checked by the same code as everywhere."""

    model_config = ConfigDict(extra="forbid")

    model: ModelFile | None = None
    calibration: DataFile | None = None
    evaluation: DataFile | None = None
    options: dict[str, Any] = Field(default_factory=dict)


@router.post(
    "/prune",
    status_code=202,
    response_model=Job,
    summary="Submit a pruning job",
    openapi_extra={"requestBody": PRUNE_BODY},
    responses=problems(400, 401, 403, 404, 413, 415, 422, 429, 503),
)
async def prune(
    request: Request,
    service: Here,
    owner: Owner,
    key: Annotated[str | None, Header(alias="Idempotency-Key", description="Repeats of it make no second job.")] = None,
) -> Response:
    """Takes the model, the data and the options; answers at once with the queued job.

    Poll `links.self` (with `?wait=30`), or follow `links.events`, then fetch `links.artifact` and `links.report`.
    """
    key = idempotency_key(key)
    kind = request.headers.get("content-type", "")
    media_type = kind.partition(";")[0].strip().lower()
    # A sick Redis is found out before a gigabyte has been sent, not after.
    await run_in_threadpool(service.jobs.ping)
    if media_type == "multipart/form-data":
        record = await _from_form(request, service, owner, key, kind)
    elif media_type == "application/json":
        body = await whole(request, MAX_JSON_BYTES)
        record = await run_in_threadpool(_from_json, service, owner, key, body)
    else:
        raise EspalierError("unsupported_media_type", f"got {media_type[:100] or 'none'!r}", where="Content-Type")
    job = job_of(record, service.settings.public_url)
    headers = {"Location": job.links.self, "Retry-After": str(POLL_SECONDS)}
    return Response(job.model_dump_json(by_alias=True), 202, headers, "application/json")


async def _from_form(request: Request, service: Service, owner: str, key: str | None, kind: str) -> JobRecord:
    with Form() as form:
        reader = FormReader(form, boundary_of(kind), service.blobs.writer)
        async for piece in pieces(request):
            await run_in_threadpool(reader.feed, piece)
        reader.close()
        return await run_in_threadpool(_place_form, service, owner, key, form)


def _place_form(service: Service, owner: str, key: str | None, form: Form) -> JobRecord:
    model = form.files.get("model")
    if model is None:
        raise EspalierError("model_missing", "the form field `model` is absent or empty", where="model")
    options = parse_options(bytes(form.texts.get("options", b"")))
    inputs = JobInputs(
        model=_ref(model),
        calibration=_optional_ref(form.files, "calibration"),
        evaluation=_optional_ref(form.files, "evaluation"),
    )
    uploads = {part.writer.sha: part.writer for part in form.files.values()}
    return place(service, Order(owner, options, inputs, key, uploads))


def _ref(part: FilePart) -> BlobRef:
    return BlobRef(blob=part.writer.sha, bytes=part.writer.bytes, name=part.name)


def _optional_ref(files: Mapping[str, FilePart], name: str) -> BlobRef | None:
    return _ref(files[name]) if name in files else None


def _from_json(service: Service, owner: str, key: str | None, body: bytes) -> JobRecord:
    try:
        asked = PruneBody.model_validate_json(body)
    except ValidationError as error:
        errors = _complaints(error)
        if any(one["type"] == "json_invalid" for one in error.errors(include_url=False, include_input=False)):
            raise EspalierError("body_invalid", f"the body is not JSON: {errors[0].detail}") from None
        detail = "; ".join(f"{one.pointer or '/'}: {one.detail}" for one in errors)
        raise EspalierError("request_invalid", detail, where="body", errors=errors) from None
    if asked.model is None:
        raise EspalierError("model_missing", 'the body has no "model"', where="model", hint=JSON_HINT)
    options = parse_options(asked.options)

    def data(file: DataFile | None) -> BlobRef | None:
        return None if file is None else owned_blob(service, owner, file.blob, file.name)

    inputs = JobInputs(
        model=owned_blob(service, owner, asked.model.blob, asked.model.name),
        external={
            _location(location): owned_blob(service, owner, blob, location)
            for location, blob in asked.model.external.items()
        },
        calibration=data(asked.calibration),
        evaluation=data(asked.evaluation),
    )
    return place(service, Order(owner, options, inputs, key))


def _complaints(error: ValidationError) -> tuple[FieldError, ...]:
    """What is wrong with the JSON body; an unknown key names the nearest known one."""
    told = []
    for one in error.errors(include_url=False, include_input=False):
        path, message = one["loc"], str(one["msg"])
        if one["type"] == "extra_forbidden":
            inner = ModelFile if path[0] == "model" else DataFile
            known = tuple(PruneBody.model_fields if len(path) == 1 else inner.model_fields)
            message = f"unknown key {str(path[-1])!r}; {nearest(str(path[-1]), known)}"
        told.append(FieldError(pointer=pointer(path), detail=message))
    return tuple(told)


JSON_HINT = 'Name it: {"model": {"blob": "sha256:<hex>"}}, after PUT /blobs/sha256:<hex>.'


def _location(location: str) -> str:
    """A relative path that stays inside the job's folder, as ONNX demands of external data."""
    path = PurePosixPath(location)
    plain = 0 < len(location) <= MAX_LOCATION_CHARS and location.isprintable() and "\\" not in location
    if not plain or path.is_absolute() or ".." in path.parts or not path.parts or str(path) != location:
        raise EspalierError(
            "request_invalid",
            f"{location[:100]!r} is not a plain relative path",
            where="model.external",
            hint="Use the location exactly as the model names it; it may not leave the model's folder.",
        )
    return location
