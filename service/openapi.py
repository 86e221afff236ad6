"""The OpenAPI document, completed: what FastAPI cannot see because bodies are streamed and the gate stands before the
app.

In: the app's routes. Out: the document with the problem schema on every failure, the two ways to send an API key, and
the bodies of the requests for jobs and of PUT /blobs. FastAPI's own 422 schema is taken out: no answer has that form.
"""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from schemas.inspect_request import InspectRequest
from schemas.kinds import REQUESTS
from schemas.request import PruneRequest
from schemas.sweep import CompareRequest, SweepRequest
from service.auth import OPEN_PATHS
from service.errors import MEDIA_TYPE, Problem

Json = dict[str, Any]

_REF = "#/components/schemas/{model}"


def problems(*statuses: int) -> dict[int | str, Json]:
    """The `responses=` of a route for these failure statuses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted(statuses)
    }


def _file(what: str) -> Json:
    return {"type": "string", "format": "binary", "description": what}


MODEL = _file("An ONNX file, or TorchScript with calibration data.")


def _job_body(options: type[Any], body: str, files: Json, example: Json | None = None) -> Json:
    """A request for a job: a form with files, or JSON that names blobs. `example`: options to start from."""
    ref = {"$ref": _REF.format(model=options.__name__)}
    form = {
        "type": "object",
        "required": ["model"],
        "additionalProperties": False,
        "properties": {"model": MODEL, **files, "options": ref},
    }
    as_form: Json = {"schema": form, "encoding": {"options": {"contentType": "application/json"}}}
    as_json: Json = {"schema": {"$ref": _REF.format(model=body)}}
    if example is not None:
        blobs = {"model": {"blob": "sha256:" + "0" * 64}, "calibration": {"blob": "sha256:" + "1" * 64}}
        as_json["example"] = {**blobs, "options": example}
    return {"required": True, "content": {"multipart/form-data": as_form, "application/json": as_json}}


PRUNE_FILES: Json = {
    "calibration": _file(".npz, .npy or .csv; unlabelled data will do. Required where options need it."),
    "evaluation": _file(".npz, .npy or .csv with labels; without it the calibration data are split."),
    "history": _file(".npz: the weights at the start and after each epoch of training. Required by karnin."),
}
PRUNE_BODY = _job_body(PruneRequest, "PruneBody", PRUNE_FILES)
SWEEP_BODY = _job_body(
    SweepRequest,
    "SweepBody",
    PRUNE_FILES,
    {"base": {"criterion": {"name": "distinctiveness"}}, "over": {"criterion.angle_deg": [10, 20, 30]}, "repeat": 3},
)
COMPARE_BODY = _job_body(
    CompareRequest,
    "CompareBody",
    PRUNE_FILES,
    {
        "criteria": [{"name": "distinctiveness"}, {"name": "magnitude", "norm": "l1"}],
        "amounts": [{"remove_units": 0.25}, {"remove_units": 0.5}],
        "surface": {"units": 5},
    },
)
INSPECT_BODY = _job_body(
    InspectRequest,
    "InspectBody",
    {"calibration": _file(".npz, .npy or .csv. Required where open dimensions of inputs fit no usual size.")},
)

BLOB_BODY: Json = {
    "required": True,
    "content": {"application/octet-stream": {"schema": _file("The raw bytes. They must hash to the name.")}},
}


def install(app: FastAPI, extra: tuple[type[Any], ...]) -> None:
    """Makes `app.openapi` return the completed document, built once. `extra`: models that only streamed bodies use."""

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(app, (*REQUESTS.values(), Problem, *extra))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _complete(app: FastAPI, models: tuple[type[Any], ...]) -> Json:
    document: Json = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for model in models:
        schema = model.model_json_schema(ref_template=_REF, mode="validation")
        for name, one in schema.pop("$defs", {}).items():
            schemas.setdefault(name, one)
        schemas[model.__name__] = schema
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer <key>"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, methods in document["paths"].items():
        for operation in methods.values():
            _complete_operation(path, operation)
    return document


def _complete_operation(path: str, operation: Json) -> None:
    operation["security"] = [] if path in OPEN_PATHS else [{"bearer": []}, {"apiKey": []}]
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):
        responses |= {str(status): one for status, one in problems(422).items()}
    for status, one in problems(500).items():
        responses.setdefault(str(status), one)
    for response in responses.values():
        response.setdefault("headers", {})["X-Request-ID"] = {"schema": {"type": "string"}}
