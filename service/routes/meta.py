"""What the service says of itself: whether it lives, whether it is ready, its figures, its criteria, its
devices, its documentation.

In: nothing. Out: documents. Nothing is refused; all of it is open to callers without a key and names neither jobs nor
owners.
"""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse, RedirectResponse, Response

from schemas.criteria import CRITERIA
from schemas.device import TARGETS, TargetList
from schemas.errors import EspalierError
from service.context import Here
from service.describe import CriterionDoc, describe
from service.docs import page
from state.records import QUEUES, WorkerInfo

router = APIRouter(tags=["service"])


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


class Part(BaseModel):
    """One thing that the service depends on."""

    ok: bool
    detail: str = Field(default="", description="What is wrong.")


class LiveWorker(BaseModel):
    """A worker whose heart beats."""

    name: str
    sandbox_level: Literal["full", "partial", "off"] = Field(description="How far it confines the jobs it runs.")
    sandbox_missing: tuple[str, ...] = Field(default=(), description="What its kernel cannot do.")


class Readiness(BaseModel):
    """Whether a job submitted now would run."""

    ready: bool
    redis: Part
    storage: Part
    workers: dict[Literal["cpu", "gpu"], tuple[LiveWorker, ...]] = Field(description="Live workers of each queue.")


class CriteriaDoc(BaseModel):
    criteria: tuple[CriterionDoc, ...]


@router.get("/", include_in_schema=False)
async def root() -> Response:
    return RedirectResponse("/docs")


@router.get("/healthz", response_model=Alive, summary="Is this process alive?")
async def healthz() -> Alive:
    """Asks nothing of Redis or the disk."""
    return Alive()


@router.get(
    "/readyz",
    response_model=Readiness,
    summary="Would a job run?",
    responses={503: {"model": Readiness, "description": "It would not"}},
)
def readyz(service: Here) -> Response:
    """503 while Redis or the storage is unwell, or no worker is alive."""
    redis, workers = _redis(service)
    storage = _storage(service)
    live: dict[Literal["cpu", "gpu"], tuple[LiveWorker, ...]] = {
        queue: tuple(
            LiveWorker(name=one.name, sandbox_level=one.sandbox_level, sandbox_missing=one.sandbox_missing)
            for one in workers
            if one.queue == queue
        )
        for queue in QUEUES
    }
    ready = redis.ok and storage.ok and bool(workers)
    state = Readiness(ready=ready, redis=redis, storage=storage, workers=live)
    headers = {"Cache-Control": "no-store"} | ({} if ready else {"Retry-After": "2"})
    return Response(state.model_dump_json(), 200 if ready else 503, headers, "application/json")


def _redis(service: Here) -> tuple[Part, list[WorkerInfo]]:
    try:
        service.jobs.ping()
        return Part(ok=True), service.jobs.workers()
    except EspalierError as error:
        return Part(ok=False, detail=error.failure.detail), []


def _storage(service: Here) -> Part:
    try:
        service.blobs.check()
        return Part(ok=True)
    except EspalierError as error:
        return Part(ok=False, detail=error.failure.detail)


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response)
def metrics(service: Here) -> Response:
    """Requests, seconds, and the queue."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/criteria", response_model=CriteriaDoc, summary="The pruning criteria and their parameters")
async def criteria() -> CriteriaDoc:
    """Everything there is to know before choosing one."""
    return CriteriaDoc(criteria=tuple(describe(name, one) for name, one in CRITERIA.items()))


@router.get("/targets", response_model=TargetList, summary="The devices that options.target knows")
async def targets() -> TargetList:
    """Memories, clock, rates, and the document that each figure is from."""
    return TargetList(targets=tuple(TARGETS.values()))


@router.get("/docs", include_in_schema=False)
async def docs(request: Request, service: Here) -> Response:
    return HTMLResponse(page(request.app.openapi(), service.settings.public_url or str(request.base_url)))
