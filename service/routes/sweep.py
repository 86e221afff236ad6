"""POST /sweep and POST /compare: many prunings of one model in one job.

In: a multipart form, or a JSON object that names blobs. Out: 202 with the job, its address in `Location`. Refused: what
`service.intake` refuses.
"""

from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from schemas.job import Job
from service.context import Here, Owner
from service.intake import COMPARE, SWEEP, accept
from service.openapi import COMPARE_BODY, SWEEP_BODY, problems

router = APIRouter(tags=["sweep"])

Key = Annotated[str | None, Header(alias="Idempotency-Key", description="Repeats of it make no second job.")]


@router.post(
    "/sweep",
    status_code=202,
    response_model=Job,
    summary="Submit a sweep: one model, many options",
    openapi_extra={"requestBody": SWEEP_BODY},
    responses=problems(400, 401, 403, 404, 413, 415, 422, 429, 503),
)
async def sweep(request: Request, service: Here, owner: Owner, key: Key = None) -> Response:
    """The model is loaded, analysed and run on the data once for all points; each point is judged as a pruning is.

    The report has a row for each point and curves; the models that are kept are among the job's files.
    """
    return await accept(request, service, owner, key, SWEEP)


@router.post(
    "/compare",
    status_code=202,
    response_model=Job,
    summary="Submit a comparison: one model, many criteria",
    openapi_extra={"requestBody": COMPARE_BODY},
    responses=problems(400, 401, 403, 404, 413, 415, 422, 429, 503),
)
async def compare(request: Request, service: Here, owner: Owner, key: Key = None) -> Response:
    """Every criterion at every amount, with the criterion `random` beside them, and on request the error surface."""
    return await accept(request, service, owner, key, COMPARE)
