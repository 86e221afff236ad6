"""Server-sent events: complete, replayed exactly, ended, and gone when the caller is."""

import asyncio
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from schemas.errors import EspalierError
from schemas.job import JobEvent, JobState, Progress, ResultManifest
from service.app import listening_client
from service.events import BEGINNING, Feed, stream
from tests.conftest import RedisServer
from tests.service.conftest import Api

Serve = Callable[..., Api]


def parse(text: str) -> list[JobEvent]:
    """The events of a stream, checked: the id and the type on the wire are those of the data."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines:
            event = JobEvent.model_validate_json(lines["data"])
            assert (event.id, event.type) == (lines["id"], lines["event"])
            found.append(event)
    return found


def told(events: list[JobEvent]) -> list[str]:
    return [event.state.value if event.state else event.progress.stage for event in events]  # type: ignore[union-attr]


def test_the_whole_life_of_a_job_is_told_as_it_happens(api: Api) -> None:
    job_id = api.submit()
    text = ""
    with api.client.stream("GET", f"/jobs/{job_id}/events") as answer:
        assert "text/event-stream; charset=utf-8" == answer.headers["Content-Type"]
        parts = answer.iter_text()
        while "queued" not in text:
            text += next(parts)
        attempt = api.start(job_id)
        while "running" not in text:
            text += next(parts)
        api.service.jobs.renew(job_id, attempt, lease_seconds=60, progress=Progress(stage="load"))
        while "load" not in text:
            text += next(parts)
    assert ["queued", "running", "load"] == told(parse(text))


def test_a_broken_connection_goes_on_exactly_where_it_broke(api: Api) -> None:
    job_id = api.submit()
    attempt = api.start(job_id)
    for stage in ("load", "observe", "select"):
        api.service.jobs.renew(job_id, attempt, lease_seconds=60, progress=Progress(stage=stage))
    ending = ResultManifest(id=job_id, attempt=attempt, finished_at=1.0, state=JobState.FAILED)
    finish_later = threading.Timer(0.3, api.service.jobs.finish, (ending,))
    finish_later.start()
    whole = parse(api.client.get(f"/jobs/{job_id}/events").text)
    finish_later.join()
    assert ["queued", "running", "load", "observe", "select", "failed"] == told(whole)
    for seen, event in enumerate(whole[:-1], start=1):
        rest = parse(api.client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": event.id}).text)
        assert whole[seen:] == rest
    # All was seen: 204 tells an EventSource not to come again.
    assert 204 == api.client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": whole[-1].id}).status_code


@pytest.mark.parametrize("last", ["x", "1", "0-0; x", "-1-0", f"{2**64}-0", f"0-{2**64}"])
def test_ids_that_are_none(api: Api, last: str) -> None:
    answer = api.client.get(f"/jobs/{api.submit()}/events", headers={"Last-Event-ID": last})
    assert (422, "request_invalid") == (answer.status_code, answer.json()["code"])


def test_a_deleted_job_ends_its_stream(api: Api) -> None:
    async def follow(job_id: str) -> str:
        feed = Feed(listening_client(api.service.settings.redis_url))
        text = ""
        async for part in stream(feed, api.service.jobs, job_id, "local", BEGINNING, keep_alive=0.05):
            text += part.decode()
            if "still here" in text and text.count("still here") == 1:
                await asyncio.to_thread(api.client.delete, f"/jobs/{job_id}")
        await feed.close()
        return text

    text = asyncio.run(follow(api.submit()))
    # The comments in between are how a dead connection is found out; clients ignore them.
    assert ": still here\n\n" in text
    assert "queued" in told(parse(text))


def test_a_caller_who_leaves_is_noticed(serve: Serve) -> None:
    api = serve()  # of its own: a listener of the test before may not have been let go yet
    job_id = api.submit()
    free = api.service.feed._free
    with api.client.stream("GET", f"/jobs/{job_id}/events") as answer:
        next(answer.iter_text())
        while api.service.feed._free == free:
            time.sleep(0.01)
        assert free - 1 == api.service.feed._free
    for _ in range(500):
        if api.service.feed._free == free:
            break
        time.sleep(0.01)
    assert free == api.service.feed._free


def test_a_stopping_server_lets_its_listeners_go(serve: Serve) -> None:
    api = serve()
    job_id = api.submit()
    with api.client.stream("GET", f"/jobs/{job_id}/events") as answer:
        parts = answer.iter_text()
        next(parts)
        threading.Timer(0.1, api.service.feed.stopping.set).start()
        assert "failed" not in "".join(parts)


def test_a_lost_redis_ends_the_stream_with_a_word(own_redis: RedisServer, serve: Serve) -> None:
    api = serve(redis_url=own_redis.url)
    job_id = api.submit()
    with api.client.stream("GET", f"/jobs/{job_id}/events") as answer:
        parts = answer.iter_text()
        text = next(parts)
        own_redis.kill()
        text += "".join(parts)
    assert text.endswith(": state_unavailable\n\n")
    waited = api.client.get(f"/jobs/{job_id}?wait=5")
    assert (503, "state_unavailable") == (waited.status_code, waited.json()["code"])
    # It comes back, and so does everything the file held.
    own_redis.start()
    assert httpx.codes.OK == api.client.get(f"/jobs/{job_id}?wait=0.1").status_code


def test_a_redis_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        async def xread(self, *_: object, **__: object) -> None:
            await asyncio.sleep(60)

    monkeypatch.setattr("service.events.GRACE_SECONDS", 0.05)
    with pytest.raises(EspalierError, match="has not answered"):
        asyncio.run(Feed(Silent()).after("x", BEGINNING, 0.01))  # type: ignore[arg-type]
