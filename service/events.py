"""A job's events as they happen: server-sent events, and the wait for a change of state.

In: a job's id and the id of the last event that the caller saw. Out: the events after it, exactly once each and in
order, because an event's id is its place in the job's Redis stream. Refused: more listeners than this process serves.

Listeners block on Redis for as long as their caller stays, so they use an asyncio client of their own and take no
thread from those who submit and fetch. Every wait ends when the process is told to stop.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import redis.asyncio
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from schemas.errors import EspalierError
from schemas.job import JobEvent
from state.jobs import JobStore, unwell
from state.records import entries, event

KEEP_ALIVE_SECONDS = 10.0
MAX_LISTENERS = 500
BATCH = 500
# Longer than the block asked of Redis: what has not answered by then will not.
GRACE_SECONDS = 5.0
BEGINNING = "0-0"

T = TypeVar("T")


class Feed:
    """The async end of the event streams."""

    def __init__(self, client: "redis.asyncio.Redis", max_listeners: int = MAX_LISTENERS) -> None:
        self._client = client
        self._free = max_listeners
        self.stopping = asyncio.Event()

    def check_room(self) -> None:
        """Refuses one listener more than there are places."""
        if self._free <= 0:
            raise EspalierError("too_many_listeners", "every place for a waiting caller is taken")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Somebody listens meanwhile."""
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    async def after(self, job_id: str, last_id: str, seconds: float) -> list[JobEvent]:
        """The events after `last_id`, waiting for the first one; empty when the time is up or the process stops."""
        block = max(1, int(seconds * 1000))
        call = self._client.xread({f"events:{job_id}": last_id}, count=BATCH, block=block)
        said = await self._unless_stopping(call, seconds + GRACE_SECONDS)
        return [event(event_id, fields) for event_id, fields in entries(said)] if said else []

    async def last_id(self, job_id: str) -> str:
        """The id of the newest event there is."""
        call = self._client.xrevrange(f"events:{job_id}", count=1)
        said = await self._unless_stopping(call, GRACE_SECONDS)
        return str(said[0][0]) if said else BEGINNING

    async def state_change(self, job_id: str, last_id: str, seconds: float) -> None:
        """Returns when the job's state has changed since `last_id`, or the time is up."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0 and not self.stopping.is_set():
            events = await self.after(job_id, last_id, left)
            if any(one.type == "state" for one in events):
                return
            last_id = events[-1].id if events else last_id

    async def close(self) -> None:
        await self._client.aclose()

    async def _unless_stopping(self, call: Awaitable[T], seconds: float) -> T | None:
        asked = asyncio.ensure_future(call)
        stop = asyncio.ensure_future(self.stopping.wait())
        try:
            done, _ = await asyncio.wait({asked, stop}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if asked in done:
                return asked.result()
            if stop in done:
                return None
            raise EspalierError("state_unavailable", f"Redis has not answered for {seconds:g} s")
        except (RedisError, OSError) as error:
            raise unwell(error) from error
        finally:
            asked.cancel()
            stop.cancel()
            await asyncio.gather(asked, stop, return_exceptions=True)


def frame(one: JobEvent) -> bytes:
    """One event in the text/event-stream format."""
    return f"id: {one.id}\nevent: {one.type}\ndata: {one.model_dump_json(exclude_none=True)}\n\n".encode()


async def stream(
    feed: Feed, jobs: JobStore, job_id: str, owner: str, last_id: str, keep_alive: float = KEEP_ALIVE_SECONDS
) -> AsyncIterator[bytes]:
    """The events of a job until its last one. A silent stretch is filled with comments, which find dead connections."""
    with feed.listening():
        yield b"retry: 2000\n\n"
        async for part in _parts(feed, jobs, job_id, owner, last_id, keep_alive):
            yield part


async def _parts(
    feed: Feed, jobs: JobStore, job_id: str, owner: str, last_id: str, keep_alive: float
) -> AsyncIterator[bytes]:
    while not feed.stopping.is_set():
        try:
            events = await feed.after(job_id, last_id, keep_alive)
            if not events and await run_in_threadpool(_is_over, jobs, job_id, owner):
                return
        except EspalierError as error:
            # The head is long gone. The caller reconnects with Last-Event-ID and is told the status then.
            yield f": {error.code}\n\n".encode()
            return
        for one in events:
            yield frame(one)
            last_id = one.id
        if any(one.state is not None and one.state.finished for one in events):
            return
        if not events:
            yield b": still here\n\n"


def _is_over(jobs: JobStore, job_id: str, owner: str) -> bool:
    """Whether nothing more can come: the job has ended, or was deleted meanwhile (which raises `not_found`)."""
    return jobs.get(job_id, owner).state.finished
