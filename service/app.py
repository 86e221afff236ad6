"""The API process: settings in, an ASGI app out.

`create_app` opens what the routes use, stacks the layers (observe, then the gate, then the routes) and nothing else.
Refused: settings that would let strangers in (no API keys on an address that is not loopback), a keys file that
cannot be read. Started by `python -m service.api`, or by any ASGI server: `uvicorn --factory
service.app:create_app`.
"""

import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version

import redis.asyncio
from fastapi import FastAPI
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from schemas.errors import EspalierError
from service import errors, openapi
from service.auth import Gate, Policy
from service.context import Service, new_job_id
from service.events import Feed
from service.intake import CompareBody, InspectBody, PruneBody, SweepBody
from service.metrics import Metrics
from service.observe import Observe
from service.routes import blobs, jobs, meta, results, submit
from state.bell import Bell
from state.blobs import open_blobs
from state.jobs import JobStore, connect
from state.reaper import Reaper
from state.settings import Settings

DESCRIPTION = (
    "Prunes neural networks to fit embedded devices. Send an ONNX model, calibration data and options to "
    "`POST /prune`; poll the job or follow its events; fetch a smaller ONNX file and a report of what was removed "
    "and what it cost. `POST /inspect` only looks: what could go, and what stays and why. `POST /sweep` and "
    "`POST /compare` prune one model many times: over options, and by criteria beside each other."
)

log = logging.getLogger("espalier.http")


def create_app(
    settings: Settings | None = None,
    *,
    clock: Callable[[], float] = time.time,
    new_id: Callable[[], str] = new_job_id,
) -> FastAPI:
    """The app for these settings; without any, for those of the environment."""
    settings = settings if settings is not None else Settings.from_env(os.environ)
    policy = Policy.of(settings)
    store = JobStore(connect(settings.redis_url))
    bell = Bell(settings)
    service = Service(
        settings=settings,
        jobs=store,
        blobs=open_blobs(settings),
        feed=Feed(listening_client(settings.redis_url)),
        ring=bell.ring,
        metrics=Metrics(store.counts),
        clock=clock,
        new_id=new_id,
    )
    app = FastAPI(
        title="Espalier",
        version=version("espalier"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(service, bell),
    )
    app.state.service = service
    for routes in (submit, jobs, results, blobs, meta):
        app.include_router(routes.router)
    errors.install(app)
    openapi.install(app, (PruneBody, InspectBody, SweepBody, CompareBody))
    # The one added last is the outermost.
    app.add_middleware(Gate, policy=policy)
    app.add_middleware(Observe, metrics=service.metrics)
    return app


def listening_client(url: str) -> "redis.asyncio.Redis":
    """A client whose reads may block for as long as a listener stays; `Feed` limits how long and how many."""
    return redis.asyncio.Redis.from_url(
        url, decode_responses=True, socket_timeout=None, socket_connect_timeout=2.0, retry=Retry(NoBackoff(), 0)
    )


def _lifespan(service: Service, bell: Bell) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        reaper = Reaper(service.jobs, service.blobs, bell, service.settings)
        reaper.start()
        try:
            service.jobs.ping()
        except EspalierError as error:
            log.warning("started without Redis, which may come yet: %s", error)
        try:
            yield
        finally:
            service.feed.stopping.set()
            reaper.stop()
            reaper.join(timeout=5)
            await service.feed.close()
            bell.close()
            service.jobs.redis.close()

    return lifespan
