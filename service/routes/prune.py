"""POST /prune: a model, data and options become a queued job.

In: a multipart form, or a JSON object that names blobs. Out: 202 with the job, its address in `Location`. Refused: what
`service.intake` refuses.
"""

from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from schemas.job import Job
from service.context import Here, Owner
from service.intake import PRUNE, accept
from service.openapi import PRUNE_BODY, problems

router = APIRouter(tags=["prune"])


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
    return await accept(request, service, owner, key, PRUNE)
