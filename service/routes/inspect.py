"""POST /inspect: what of a model could go, and what stays and why; nothing is removed.

In: a multipart form, or a JSON object that names blobs. Out: 202 with the job, its address in `Location`. Refused: what
`service.intake` refuses.
"""

from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from schemas.job import Job
from service.context import Here, Owner
from service.intake import INSPECT, accept
from service.openapi import INSPECT_BODY, problems

router = APIRouter(tags=["inspect"])


@router.post(
    "/inspect",
    status_code=202,
    response_model=Job,
    summary="Submit an inspection",
    openapi_extra={"requestBody": INSPECT_BODY},
    responses=problems(400, 401, 403, 404, 413, 415, 422, 429, 503),
)
async def inspect(
    request: Request,
    service: Here,
    owner: Owner,
    key: Annotated[str | None, Header(alias="Idempotency-Key", description="Repeats of it make no second job.")] = None,
) -> Response:
    """Takes the model and, where open dimensions of its inputs fit no usual size, calibration data.

    The job's report is the inspection: groups, units, layers, and every pin with its reason. There is no artifact.
    """
    return await accept(request, service, owner, key, INSPECT)
