"""The body of a request for a job: a model, data and options become a queued job.

In: a multipart form, or a JSON object that names blobs, and which kind of job it asks for. Out: 202 with the job.
Refused: another content type, a body that cannot be read, a request without a model, options that are not valid, data
that the kind has no use for, and what `service.submit` refuses. A refused request leaves nothing on disk.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from schemas.errors import EspalierError, FieldError, nearest
from schemas.inspect_request import parse_inspection
from schemas.job import BLOB_PATTERN, BlobRef, JobInputs
from schemas.kinds import JobRequest
from schemas.parse import MAX_COMPLAINTS, MAX_KEY_CHARACTERS, NO_OBJECT
from schemas.request import parse_options
from schemas.sentences import sentence
from schemas.sweep import parse_comparison, parse_sweep
from service.body import pieces, whole
from service.context import Service
from service.errors import pointer
from service.multipart import MAX_NAME_CHARS, FilePart, Form, FormReader, boundary_of
from service.submit import Order, idempotency_key, owned_blob, place
from service.views import job_of
from state.records import JobRecord

MAX_JSON_BYTES = 4 * 1024 * 1024
MAX_EXTERNAL_FILES = 1000
MAX_LOCATION_CHARS = 500
POLL_SECONDS = 1


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


class InspectBody(BaseModel):
    """The JSON form of POST /inspect. `options` are checked by the same code as everywhere."""

    model_config = ConfigDict(extra="forbid")

    model: ModelFile | None = None
    calibration: DataFile | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class PruneBody(InspectBody):
    """The JSON form of POST /prune: with data to judge with, and how the model was trained."""

    evaluation: DataFile | None = None
    history: DataFile | None = None


class SweepBody(PruneBody):
    """The JSON form of POST /sweep."""


class CompareBody(PruneBody):
    """The JSON form of POST /compare."""


@dataclass(frozen=True)
class Intake:
    """What one kind of job takes."""

    body: type[InspectBody]
    parse: Callable[[bytes | Mapping[str, Any]], JobRequest]


PRUNE = Intake(PruneBody, parse_options)
INSPECT = Intake(InspectBody, parse_inspection)
SWEEP = Intake(SweepBody, parse_sweep)
COMPARE = Intake(CompareBody, parse_comparison)


async def accept(request: Request, service: Service, owner: str, key: str | None, intake: Intake) -> Response:
    """202 with the queued job."""
    key = idempotency_key(key)
    kind = request.headers.get("content-type", "")
    media_type = kind.partition(";")[0].strip().lower()
    # A sick Redis is found out before a gigabyte has been sent, not after.
    await run_in_threadpool(service.jobs.ping)
    if media_type == "multipart/form-data":
        record = await _from_form(request, service, owner, key, kind, intake)
    elif media_type == "application/json":
        body = await whole(request, MAX_JSON_BYTES)
        record = await run_in_threadpool(_from_json, service, owner, key, body, intake)
    else:
        raise EspalierError("unsupported_media_type", f"got {media_type[:100] or 'none'!r}", where="Content-Type")
    job = job_of(record, service.settings.public_url)
    headers = {"Location": job.links.self, "Retry-After": str(POLL_SECONDS)}
    return Response(job.model_dump_json(by_alias=True), 202, headers, "application/json")


async def _from_form(
    request: Request, service: Service, owner: str, key: str | None, kind: str, intake: Intake
) -> JobRecord:
    with Form() as form:
        reader = FormReader(form, boundary_of(kind), service.blobs.writer)
        async for piece in pieces(request):
            await run_in_threadpool(reader.feed, piece)
        reader.close()
        return await run_in_threadpool(_place_form, service, owner, key, form, intake)


def _place_form(service: Service, owner: str, key: str | None, form: Form, intake: Intake) -> JobRecord:
    model = form.files.get("model")
    if model is None:
        raise EspalierError("model_missing", "the form field `model` is absent or empty", where="model")
    unused = sorted(set(form.files) - set(intake.body.model_fields))
    if unused:
        raise EspalierError("body_invalid", f"this kind of job has no use for {', '.join(unused)}", where=unused[0])
    options = intake.parse(bytes(form.texts.get("options", b"")))
    inputs = JobInputs(
        model=_ref(model),
        calibration=_optional_ref(form.files, "calibration"),
        evaluation=_optional_ref(form.files, "evaluation"),
        history=_optional_ref(form.files, "history"),
    )
    uploads = {part.writer.sha: part.writer for part in form.files.values()}
    return place(service, Order(owner, options, inputs, key, uploads))


def _ref(part: FilePart) -> BlobRef:
    return BlobRef(blob=part.writer.sha, bytes=part.writer.bytes, name=part.name)


def _optional_ref(files: Mapping[str, FilePart], name: str) -> BlobRef | None:
    return _ref(files[name]) if name in files else None


def _from_json(service: Service, owner: str, key: str | None, body: bytes, intake: Intake) -> JobRecord:
    try:
        asked = intake.body.model_validate_json(body)
    except ValidationError as error:
        errors = _complaints(error, intake)
        if any(one["type"] == "json_invalid" for one in error.errors(include_url=False, include_input=False)):
            why = errors[0].detail.removeprefix("Invalid JSON: ")
            raise EspalierError("body_invalid", f"the body is not JSON: {why}") from None
        detail = "; ".join(f"{one.pointer or '/'}: {one.detail}" for one in errors)
        raise EspalierError("request_invalid", detail, where="body", errors=errors) from None
    if asked.model is None:
        raise EspalierError("model_missing", 'the body has no "model"', where="model", hint=JSON_HINT)
    options = intake.parse(asked.options)

    def data(file: DataFile | None) -> BlobRef | None:
        return None if file is None else owned_blob(service, owner, file.blob, file.name)

    inputs = JobInputs(
        model=owned_blob(service, owner, asked.model.blob, asked.model.name),
        external={
            _location(location): owned_blob(service, owner, blob, location)
            for location, blob in asked.model.external.items()
        },
        calibration=data(asked.calibration),
        evaluation=data(asked.evaluation) if isinstance(asked, PruneBody) else None,
        history=data(asked.history) if isinstance(asked, PruneBody) else None,
    )
    return place(service, Order(owner, options, inputs, key))


def _complaints(error: ValidationError, intake: Intake) -> tuple[FieldError, ...]:
    """The first things wrong with the JSON body; an unknown key names the nearest known one."""
    told = []
    for one in error.errors(include_url=False)[:MAX_COMPLAINTS]:
        path = tuple(part[:MAX_KEY_CHARACTERS] if isinstance(part, str) else part for part in one["loc"])
        told.append(FieldError(pointer=pointer(path), detail=_sentence(one, path, intake)))
    return tuple(told)


def _sentence(problem: ErrorDetails, path: tuple[int | str, ...], intake: Intake) -> str:
    inner = intake.body if len(path) < 2 else ModelFile if path[0] == "model" else DataFile
    known = inner.model_fields
    if problem["type"] == "extra_forbidden":
        return f"unknown key {str(path[-1])!r}; {nearest(str(path[-1]), tuple(known))}"
    if problem["type"] in NO_OBJECT:
        return sentence(problem, example=FILE if path else BODY)
    field = known.get(str(path[1 if len(path) > 1 else 0])) if path else None
    return sentence(problem, (field.description or "") if field else "")


FILE = '{"blob": "sha256:<hex>"}'
BODY = f'{{"model": {FILE}}}'
JSON_HINT = f"Name it: {BODY}, after PUT /blobs/sha256:<hex>."


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
