"""The jobs in a real Redis, seen from the workers: claim, renew, finish, reap. Leases end by Redis' own clock."""

import time
from collections.abc import Callable
from typing import cast

from schemas.job import JobState
from state.jobs import JobStore, Orphans, Reaped, WorkerInfo, connect
from tests.conftest import RedisServer
from tests.state.manifests import ending, sha, submission

Submit = Callable[..., str]
SHORT = 0.05


def reap(store: JobStore, max_attempts: int = 3, ring_after: float = 60) -> Reaped:
    return store.reap(max_attempts=max_attempts, ring_after_seconds=ring_after)


def lose(store: JobStore, job_id: str) -> None:
    """Claim a job and let the lease run out."""
    assert store.claim(job_id, "w", lease_seconds=SHORT)
    outlast(store, job_id)


def outlast(store: JobStore, job_id: str) -> None:
    """By Redis' own clock, which a machine may set back at any moment."""
    ends = store.redis.zscore("jobs:running", job_id)
    assert isinstance(ends, float)
    while redis_clock(store) <= ends:
        time.sleep(SHORT / 5)


def redis_clock(store: JobStore) -> float:
    seconds, micros = cast("tuple[int, int]", store.redis.time())
    return seconds + micros / 1e6


def test_one_job_is_claimed_once(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    claims = [store.claim(job_id, "w", lease_seconds=5) for _ in range(5)]
    assert [1, None, None, None, None] == [claim and claim.attempt for claim in claims]
    assert claims[0] is not None
    assert submission(1) == claims[0].manifest
    assert (0, 1) == (store.counts().queued["cpu"], store.counts().running)
    assert None is not store.get(job_id, "ann").started_at
    assert None is store.claim("0" * 32, "w", lease_seconds=5)


def test_a_finished_job_keeps_its_result_and_frees_its_inputs(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    store.drop_blob(sha("a"), "ann")
    store.claim(job_id, "w", lease_seconds=5)
    done = ending(job_id, 1)
    assert (True, Orphans((sha("a"),))) == store.finish(done)
    job = store.get(job_id, "ann")
    assert (JobState.SUCCEEDED, 7.0, done.result) == (job.state, job.finished_at, job.result)
    assert all(store.owns_blob(sha(digit), "ann") for digit in "cdef")
    assert {"succeeded": 1, "failed": 0, "cancelled": 0} == store.counts().finished
    assert 0 == store.counts().running
    # The answer may get lost: the same words again are accepted, others are not.
    assert (True, Orphans()) == store.finish(done)
    assert (False, Orphans()) == store.finish(ending(job_id, 1, at=8.0))


def test_a_silent_workers_job_goes_back_to_the_queue(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    lose(store, job_id)
    assert ((job_id, "cpu"),) == reap(store).ring
    assert JobState.QUEUED == store.get(job_id, "ann").state
    assert () == reap(store).ring
    second = store.claim(job_id, "v", lease_seconds=5)
    assert second is not None
    assert 2 == second.attempt


def test_a_zombie_is_told_and_refused(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    lose(store, job_id)
    reap(store)
    store.claim(job_id, "v", lease_seconds=5)
    assert "lost" == store.renew(job_id, 1, lease_seconds=5, progress=None)
    assert (False, Orphans()) == store.finish(ending(job_id, 1))
    assert JobState.RUNNING == store.get(job_id, "ann").state
    assert store.finish(ending(job_id, 2))[0]
    assert not store.hold_blob(sha("9"), "ann", job_id)


def test_a_late_worker_takes_its_job_back_while_nobody_else_has_it(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    lose(store, job_id)
    reap(store)
    assert "held" == store.renew(job_id, 1, lease_seconds=5, progress=None)
    assert None is store.claim(job_id, "v", lease_seconds=5)
    lose_again = submit(2)
    lose(store, lose_again)
    reap(store)
    assert store.finish(ending(lose_again, 1))[0]


def test_a_poison_job_fails_after_its_attempts(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    store.drop_blob(sha("a"), "ann")
    for attempt in (1, 2):
        lose(store, job_id)
        assert (job_id,) == tuple(one for one, _ in reap(store).ring), attempt
    lose(store, job_id)
    found = reap(store)
    assert () == found.ring
    assert Orphans((sha("a"),)) == found.orphans
    (manifest,) = found.closed
    job = store.get(job_id, "ann")
    assert (JobState.FAILED, 3, JobState.FAILED) == (job.state, job.attempt, manifest.state)
    assert manifest.failure == job.failure
    assert job.failure is not None
    assert "worker_lost" == job.failure.code


def test_max_attempts_is_the_callers(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    lose(store, job_id)
    reap(store, max_attempts=1)
    assert JobState.FAILED == store.get(job_id, "ann").state


def test_a_cancelled_job_of_a_silent_worker_does_not_start_again(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    assert store.claim(job_id, "w", lease_seconds=SHORT)
    store.cancel(job_id, "ann")
    outlast(store, job_id)
    assert () == reap(store).ring
    assert JobState.CANCELLED == store.get(job_id, "ann").state


def test_a_bell_that_nobody_heard_is_rung_again_but_not_beside_waiting_messages(
    store: JobStore, submit: Submit
) -> None:
    job_id = submit(1)
    assert () == reap(store, ring_after=60).ring
    assert ((job_id, "cpu"),) == reap(store, ring_after=0).ring
    store.redis.lpush("prune.cpu", "a message")
    assert () == reap(store, ring_after=0).ring


def test_blobs_of_a_job_that_was_never_submitted_go_in_the_end(store: JobStore) -> None:
    store.hold_blob(sha("a"), "ann", submission(1).id)
    assert Orphans() == reap(store).orphans
    store.redis.zadd("holds:open", {submission(1).id: 1.0})
    assert Orphans((sha("a"),)) == reap(store).orphans


def test_workers_are_listed_while_their_heart_beats(store: JobStore) -> None:
    one = WorkerInfo(name="w1", queue="cpu", sandbox_level="full", pid=1, host="h", started_at=1.0)
    two = one.model_copy(update={"name": "w2", "queue": "gpu"})
    store.beat(one, 60)
    store.beat(two, SHORT)
    assert [one, two] == store.workers()
    time.sleep(2 * SHORT)
    assert [one] == store.workers()
    store.gone("w1")
    assert [] == store.workers()


def test_a_killed_redis_remembers_jobs_that_are_a_second_old(own_redis: RedisServer) -> None:
    store = JobStore(connect(own_redis.url))
    store.add_blob(sha("a"), "ann")
    store.submit(submission(1), max_queued=5, max_per_owner=5, idempotency_seconds=60)
    store.claim(submission(1).id, "w", lease_seconds=30)
    # AOF everysec: wait until Redis says that everything is on disk.
    assert 1 == store.redis.execute_command("WAITAOF", 1, 0, 5000)[0]
    own_redis.kill()
    own_redis.start()
    assert "held" == store.renew(submission(1).id, 1, lease_seconds=30, progress=None)
    assert store.finish(ending(submission(1).id, 1))[0]
    store.redis.close()
