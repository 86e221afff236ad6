"""The doorbell and the reaper on a real Redis and a real folder."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.job import JobState, ResultManifest
from state.bell import Bell, broker_url
from state.blobs import LocalBlobs, result_key
from state.jobs import JobStore, Orphans, connect
from state.reaper import Reaper, discard
from state.settings import Settings
from tests.conftest import RedisServer
from tests.state.manifests import submission

Submit = Callable[..., str]


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(redis_url=redis_url, home=tmp_path, lease_seconds=0.1)


@pytest.fixture
def bell(settings: Settings) -> Iterator[Bell]:
    bell = Bell(settings)
    yield bell
    bell.close()


def messages(store: JobStore, queue: str) -> list[str]:
    return [json.loads(text)["headers"]["argsrepr"] for text in store.redis.lrange(f"prune.{queue}", 0, -1)]


def eventually(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_bell_is_a_message_in_the_queue_of_the_device(store: JobStore, bell: Bell) -> None:
    assert bell.ring("1", "cpu")
    assert bell.ring("2", "gpu")
    assert (["['1']"], ["['2']"]) == (messages(store, "cpu"), messages(store, "gpu"))


def test_a_bell_without_redis_says_no_and_rings_again_later(own_redis: RedisServer, tmp_path: Path) -> None:
    bell = Bell(Settings(redis_url=own_redis.url, home=tmp_path))
    assert bell.ring("1", "cpu")
    own_redis.kill()
    assert not bell.ring("2", "cpu")
    own_redis.start()
    assert bell.ring("3", "cpu")
    bell.close()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("unix:///a/b.sock", "redis+socket:///a/b.sock?virtual_host=0"),
        ("unix:///a/b.sock?db=3", "redis+socket:///a/b.sock?virtual_host=3"),
    ],
)
def test_broker_urls(given: str, wanted: str) -> None:
    assert wanted == broker_url(given)


def test_the_reaper_rings_for_a_job_whose_submitter_died(
    store: JobStore, bell: Bell, settings: Settings, submit: Submit
) -> None:
    job_id = submit(1)
    reaper = Reaper(store, LocalBlobs(settings.home), bell, settings)
    reaper.start()
    eventually(lambda: messages(store, "cpu"))
    time.sleep(3 * settings.lease_seconds)  # nobody listens: the message waits, and no more are added
    reaper.stop()
    reaper.join()
    assert [f"['{job_id}']"] == messages(store, "cpu")


def test_the_reaper_closes_a_poison_job_on_disk_too_and_deletes_its_input(
    store: JobStore, bell: Bell, settings: Settings
) -> None:
    blobs = LocalBlobs(settings.home)
    job = submission(1)
    with blobs.writer() as writer:
        writer.write(b"model")
        model = job.inputs.model.model_copy(update={"blob": writer.sha})
        job = job.model_copy(update={"inputs": job.inputs.model_copy(update={"model": model})})
        store.hold_blob(writer.sha, "ann", job.id)
        writer.commit()
    store.submit(job, max_queued=5, max_per_owner=5, idempotency_seconds=60)
    store.claim(job.id, "w", lease_seconds=0.01)
    time.sleep(0.05)
    Reaper(store, blobs, bell, settings.model_copy(update={"max_attempts": 1})).sweep()
    text = blobs.get_document(result_key(job.id))
    assert text is not None
    assert JobState.FAILED == ResultManifest.model_validate_json(text).state
    assert None is blobs.exists(model.blob)
    store.add_blob(model.blob, "ann")  # does not wait: the file is gone already


def test_the_reaper_outlives_redis_and_waits_a_lease_after_it(own_redis: RedisServer, tmp_path: Path) -> None:
    settings = Settings(redis_url=own_redis.url, home=tmp_path, lease_seconds=0.4)
    store = JobStore(connect(own_redis.url))
    bell = Bell(settings)
    store.add_blob(submission(1).inputs.model.blob, "ann")
    store.submit(submission(1), max_queued=5, max_per_owner=5, idempotency_seconds=60)
    store.redis.execute_command("WAITAOF", 1, 0, 5000)
    reaper = Reaper(store, LocalBlobs(tmp_path), bell, settings)
    reaper.start()
    own_redis.kill()
    time.sleep(3 * settings.lease_seconds)
    own_redis.start()
    eventually(lambda: messages(store, "cpu"))
    reaper.stop()
    reaper.join()
    bell.close()
    store.redis.close()


def test_orphans_that_the_storage_will_not_delete_stay_behind(
    store: JobStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    discard(store, LocalBlobs(tmp_path), Orphans(("not-a-blob",)))
    assert "blob not-a-blob was not deleted" in caplog.text
