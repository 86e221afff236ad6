"""What every route is given: the settings, the jobs, the bytes, the doorbell, a clock and a source of ids.

In: `create_app` builds one `Service` and puts it on the app's state. Out: the parameter types `Here` (that service)
and `Owner` (whose key the request came with). Nothing here is refused: the gate has refused before.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.events import Feed
from service.metrics import Metrics
from state.blobs import BlobStore
from state.jobs import JobStore
from state.settings import Settings


@dataclass(frozen=True)
class Service:
    settings: Settings
    jobs: JobStore
    blobs: BlobStore
    feed: Feed
    ring: Callable[[str, str], bool]
    metrics: Metrics
    clock: Callable[[], float]
    new_id: Callable[[], str]


def new_job_id() -> str:
    """32 hex digits in the layout of a version-7 UUID: ids sort by the millisecond they were made in."""
    stamp = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(10), "big")
    value = (stamp << 80) | noise
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return f"{value:032x}"


async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _owner_of(request: Request) -> str:
    owner: str = request.state.owner
    return owner


Here = Annotated[Service, Depends(_service_of)]
Owner = Annotated[str, Depends(_owner_of)]
