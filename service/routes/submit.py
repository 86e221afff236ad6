"""POST /prune, /inspect, /sweep and /compare: a model, data and options become a queued job.

In: a multipart form, or a JSON object that names blobs. Out: 202 with the job, its address in `Location`. Refused: what
`service.intake` refuses.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from schemas.job import Job
from service.context import Here, Owner
from service.intake import COMPARE, INSPECT, PRUNE, SWEEP, accept
from service.openapi import COMPARE_BODY, INSPECT_BODY, PRUNE_BODY, SWEEP_BODY, problems

router = APIRouter()

Key = Annotated[str | None, Header(alias="Idempotency-Key", description="Repeats of it make no second job.")]


def _takes(body: dict[str, Any], tag: str) -> dict[str, Any]:
    """What the four have in common."""
    return {
        "status_code": 202,
        "response_model": Job,
        "tags": [tag],
        "openapi_extra": {"requestBody": body},
        "responses": problems(400, 401, 403, 404, 413, 415, 422, 429, 503),
    }


@router.post("/prune", summary="Submit a pruning job", **_takes(PRUNE_BODY, "prune"))
async def prune(request: Request, service: Here, owner: Owner, key: Key = None) -> Response:
    """Takes the model, the data and the options; answers at once with the queued job.

    Poll `links.self` (with `?wait=30`), or follow `links.events`, then fetch `links.artifact` and `links.report`.
    """
    return await accept(request, service, owner, key, PRUNE)


@router.post("/inspect", summary="Submit an inspection", **_takes(INSPECT_BODY, "inspect"))
async def inspect(request: Request, service: Here, owner: Owner, key: Key = None) -> Response:
    """Takes the model and, where open dimensions of its inputs fit no usual size, calibration data.

    The job's report is the inspection: groups, units, layers, and every pin with its reason. There is no artifact.
    """
    return await accept(request, service, owner, key, INSPECT)


@router.post("/sweep", summary="Submit a sweep: one model, many options", **_takes(SWEEP_BODY, "sweep"))
async def sweep(request: Request, service: Here, owner: Owner, key: Key = None) -> Response:
    """The model is loaded, analysed and run on the data once for all points; each point is judged as a pruning is.

    The report has a row for each point and curves; the models that are kept are among the job's files.
    """
    return await accept(request, service, owner, key, SWEEP)


@router.post("/compare", summary="Submit a comparison: one model, many criteria", **_takes(COMPARE_BODY, "sweep"))
async def compare(request: Request, service: Here, owner: Owner, key: Key = None) -> Response:
    """Every criterion at every amount, with the criterion `random` beside them, and on request the error surface."""
    return await accept(request, service, owner, key, COMPARE)
