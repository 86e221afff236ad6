"""Failures as HTTP: every error of this service leaves as application/problem+json (RFC 9457).

In: an `EspalierError`, what FastAPI and Starlette raise (validation, 404, 405), or an exception nobody foresaw. Out:
a `Problem` with a stable `code`, the `request_id`, a hint, and JSON pointers where a document was wrong. The table
`schemas.errors.FAILURES` maps a code to its status; a traceback never leaves the process.
"""

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from schemas.errors import FAILURES, EspalierError, Failure, FieldError
from schemas.sentences import sentence

MEDIA_TYPE = "application/problem+json"

# Seconds after which a refused caller may try again; a full queue empties more slowly than Redis restarts.
RETRY_AFTER: dict[str, int] = {"queue_full": 10, "too_many_jobs": 5, "device_unavailable": 30}
RETRY_AFTER_ELSE = 2

_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large", 415: "unsupported_media_type"}

log = logging.getLogger("espalier.http")


class Problem(BaseModel):
    """An error as this service tells it (RFC 9457)."""

    type: str = Field(description="Where the code is documented: /docs#<code>.")
    title: str = Field(description="What the code means.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened here, with names and numbers.")
    instance: str = Field(description="The path that was asked for.")
    code: str = Field(description="Stable code; programs look at this.")
    request_id: str = Field(description="Names this request in the logs; also in X-Request-ID.")
    hint: str = Field(default="", description="What to try.")
    where: str = Field(default="", description="The file, field, parameter or option it happened at.")
    errors: tuple[FieldError, ...] = Field(default=(), description="One entry for each wrong option or parameter.")


def pointer(path: tuple[int | str, ...]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def problem_response(failure: Failure, *, path: str, request_id: str) -> Response:
    """The response for one failure, with `Retry-After` where trying again can help."""
    kind = FAILURES[failure.code]
    problem = Problem(
        type=f"/docs#{failure.code}",
        title=failure.title,
        status=kind.status,
        detail=failure.detail,
        instance=path,
        code=failure.code,
        request_id=request_id,
        hint=failure.hint,
        where=failure.where,
        errors=failure.errors,
    )
    headers = {"Cache-Control": "no-store"}
    if kind.retry:
        headers["Retry-After"] = str(RETRY_AFTER.get(failure.code, RETRY_AFTER_ELSE))
    if kind.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(problem.model_dump_json(), kind.status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Every exception that a route can raise becomes a problem. What is left over is the observer's (observe.py)."""
    app.add_exception_handler(EspalierError, _espalier_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


def _respond(request: Request, failure: Failure, headers: dict[str, str] | None = None) -> Response:
    response = problem_response(failure, path=request.url.path, request_id=request.state.request_id)
    response.headers.update(headers or {})
    return response


async def _espalier_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EspalierError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("%s %s", request.state.request_id, error)
    return _respond(request, error.failure)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = tuple(FieldError(pointer=pointer(one["loc"]), detail=sentence(one)) for one in error.errors())
    detail = "; ".join(f"{one.pointer}: {one.detail}" for one in errors)
    return _respond(request, EspalierError("request_invalid", detail, errors=errors).failure)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: an unknown path, a method that the path does not take."""
    assert isinstance(error, HTTPException)
    code = _BY_STATUS.get(error.status_code, "internal_error" if error.status_code >= 500 else "request_invalid")
    if code == "not_found":
        detail = f"There is nothing at {request.url.path}."
    elif code == "method_not_allowed":
        detail = f"{request.url.path} does not take {request.method}."
    else:
        detail = str(error.detail)
    return _respond(request, EspalierError(code, detail).failure, dict(error.headers or {}))
