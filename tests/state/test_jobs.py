"""The jobs in a real Redis, seen from the service: submit, look, cancel, delete, events, blobs."""

import threading
from collections.abc import Callable

from schemas.job import JobState, Progress
from state.jobs import JobStore, Orphans, Submitted, connect
from tests.conftest import RedisServer
from tests.state.manifests import LIMITS, ending, refused, sha, submission

Submit = Callable[..., str]


def test_a_submitted_job_is_queued_and_says_so(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    job = store.get(job_id, "ann")
    assert submission(1) == job.manifest
    assert (JobState.QUEUED, 0, False) == (job.state, job.attempt, job.cancel_requested)
    assert (None, None, None, None) == (job.started_at, job.finished_at, job.result, job.failure)
    (event,) = store.events_after(job_id, "0", block_ms=0)
    assert ("state", JobState.QUEUED, 0) == (event.type, event.state, event.attempt)
    assert 1 == store.counts().queued["cpu"]
    assert 0 == store.counts().queued["gpu"]


def test_another_owners_job_does_not_exist(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    for act in (store.get, store.cancel, store.delete):
        with refused("not_found"):
            act(job_id, "bob")
    assert JobState.QUEUED == store.get(job_id, "ann").state


def test_the_same_idempotency_key_makes_one_job_even_in_parallel(store: JobStore, redis_url: str) -> None:
    store.add_blob(sha("a"), "ann")
    answers: list[Submitted] = []
    start = threading.Barrier(10)

    def ask(number: int) -> None:
        mine = JobStore(connect(redis_url))
        start.wait()
        answers.append(mine.submit(submission(number, key="k"), **LIMITS))
        mine.redis.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len({answer.job_id for answer in answers})
    assert 1 == sum(answer.created for answer in answers)
    assert 1 == store.counts().submitted


def test_an_idempotency_key_belongs_to_one_owner_and_one_body(store: JobStore, submit: Submit) -> None:
    job_id = submit(1, key="k")
    assert job_id == store.repeat_of("ann", "k", "b1")
    assert None is store.repeat_of("bob", "k", "b1")
    assert None is store.repeat_of("ann", "other", "b1")
    with refused("idempotency_key_reused"):
        store.repeat_of("ann", "k", "b2")
    with refused("idempotency_key_reused"):
        submit(2, key="k", body="b2")
    assert submit(3, key="k", owner="bob") != job_id
    store.delete(job_id, "ann")
    assert submit(4, key="k", body="b2") == f"{4:032x}"


def test_owners_and_keys_that_look_alike_when_joined_stay_apart(store: JobStore, submit: Submit) -> None:
    submit(1, owner="a:b", key="c")
    assert None is store.repeat_of("a", "b:c", "b1")


def test_a_submit_sent_twice_is_one_job(store: JobStore, submit: Submit) -> None:
    submit(1)
    assert Submitted(f"{1:032x}", created=False) == store.submit(submission(1), **LIMITS)


def test_the_queue_and_the_owners_share_have_ends(store: JobStore, submit: Submit) -> None:
    for number in range(3):
        submit(number)
    with refused("too_many_jobs"):
        submit(3)
    submit(4, owner="bob")
    submit(5, owner="bob", queue="gpu")
    with refused("queue_full"):
        submit(6, owner="carl")
    store.cancel(f"{0:032x}", "ann")
    submit(7)


def test_a_job_needs_blobs_that_are_its_owners(store: JobStore) -> None:
    with refused("blob_not_found"):
        store.submit(submission(1), **LIMITS)
    store.add_blob(sha("a"), "bob")
    with refused("blob_not_found"):
        store.submit(submission(1), **LIMITS)
    store.add_blob(sha("a"), "ann")
    assert store.submit(submission(1), **LIMITS).created


def test_pages_are_newest_first_and_do_not_overlap(store: JobStore, submit: Submit) -> None:
    for number in (1, 2, 3):
        submit(number)
    submit(9, owner="bob")
    first, cursor = store.page("ann", limit=2, cursor=None)
    second, end = store.page("ann", limit=2, cursor=cursor)
    assert [3, 2] == [int(job.manifest.id, 16) for job in first]
    assert [1] == [int(job.manifest.id, 16) for job in second]
    assert None is end
    with refused("cursor_invalid"):
        store.page("ann", limit=2, cursor="[x")


def test_cancel_ends_a_queued_job_at_once_and_frees_its_input(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    assert Orphans() == store.drop_blob(sha("a"), "ann")
    job, orphans = store.cancel(job_id, "ann")
    assert JobState.CANCELLED == job.state
    assert job.failure is not None
    assert "cancelled" == job.failure.code
    assert Orphans((sha("a"),)) == orphans
    assert None is store.claim(job_id, "w", lease_seconds=5)
    again, _ = store.cancel(job_id, "ann")
    assert job == again


def test_cancel_asks_the_worker_of_a_running_job(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    assert store.claim(job_id, "w", lease_seconds=5)
    assert "held" == store.renew(job_id, 1, lease_seconds=5, progress=None)
    job, _ = store.cancel(job_id, "ann")
    assert (JobState.RUNNING, True) == (job.state, job.cancel_requested)
    assert "cancel" == store.renew(job_id, 1, lease_seconds=5, progress=None)
    with refused("job_still_running"):
        store.delete(job_id, "ann")
    assert store.finish(ending(job_id, 1, JobState.CANCELLED))[0]
    assert (JobState.CANCELLED, False) == (store.get(job_id, "ann").state, store.get(job_id, "ann").cancel_requested)


def test_delete_leaves_nothing(store: JobStore, submit: Submit) -> None:
    job_id = submit(1, key="k")
    store.claim(job_id, "w", lease_seconds=5)
    store.finish(ending(job_id, 1))
    store.drop_blob(sha("a"), "ann")
    orphans = store.delete(job_id, "ann")
    assert {sha(digit) for digit in "cdef"} == set(orphans.blobs)
    for one in (*orphans.blobs, sha("a")):
        store.done_discarding(one)
    assert ["counters"] == list(store.redis.keys())
    with refused("not_found"):
        store.delete(job_id, "ann")


def test_deleting_a_queued_job_cancels_it(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    store.delete(job_id, "ann")
    assert None is store.claim(job_id, "w", lease_seconds=5)
    assert 0 == store.counts().queued["cpu"]


def test_events_replay_from_any_point_and_wait_for_more(store: JobStore, submit: Submit, redis_url: str) -> None:
    job_id = submit(1)
    store.claim(job_id, "w", lease_seconds=5)
    told = Progress(stage="observe", fraction=0.5, message="half")
    store.renew(job_id, 1, lease_seconds=5, progress=told)
    events = store.events_after(job_id, "0", block_ms=0)
    assert [JobState.QUEUED, JobState.RUNNING, None] == [event.state for event in events]
    assert told == events[-1].progress
    assert told == store.get(job_id, "ann").progress
    assert events[1:] == store.events_after(job_id, events[0].id, block_ms=0)
    assert [] == store.events_after(job_id, events[-1].id, block_ms=10)
    other = JobStore(connect(redis_url))
    thread = threading.Thread(target=lambda: other.finish(ending(job_id, 1)))
    thread.start()
    (last,) = store.events_after(job_id, events[-1].id, block_ms=20_000)
    thread.join()
    other.redis.close()
    assert JobState.SUCCEEDED == last.state
    with refused("request_invalid"):
        store.events_after(job_id, "$", block_ms=0)


def test_a_blob_lives_while_anybody_refers_to_it(store: JobStore, submit: Submit) -> None:
    job_id = submit(1)
    store.add_blob(sha("a"), "bob")
    assert Orphans() == store.drop_blob(sha("a"), "ann")
    assert store.owns_blob(sha("a"), "ann")  # through the job that reads it
    store.cancel(job_id, "ann")
    assert not store.owns_blob(sha("a"), "ann")
    assert Orphans() == store.drop_blob(sha("a"), "ann")
    assert Orphans((sha("a"),)) == store.drop_blob(sha("a"), "bob")


def test_blobs_held_for_a_job_to_come_are_enough_to_submit_it(store: JobStore) -> None:
    job = submission(1)
    assert store.hold_blob(sha("a"), "ann", job.id)
    assert store.submit(job, **LIMITS).created
    assert Orphans() == store.release_blobs(job.id)  # it is submitted: its own end will let them go
    assert Orphans((sha("a"),)) == store.cancel(job.id, "ann")[1]


def test_blobs_held_for_a_job_that_is_refused_are_let_go(store: JobStore) -> None:
    store.hold_blob(sha("a"), "ann", submission(1).id)
    assert Orphans((sha("a"),)) == store.release_blobs(submission(1).id)


def test_nobody_refers_to_a_blob_whose_file_is_being_deleted(store: JobStore, redis_url: str) -> None:
    store.add_blob(sha("a"), "ann")
    assert Orphans((sha("a"),)) == store.drop_blob(sha("a"), "ann")
    other = JobStore(connect(redis_url))
    thread = threading.Thread(target=lambda: other.add_blob(sha("a"), "ann"))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert not store.owns_blob(sha("a"), "ann")
    store.done_discarding(sha("a"))
    thread.join()
    other.redis.close()
    assert store.owns_blob(sha("a"), "ann")


def test_without_redis_everything_is_unavailable_and_comes_back(own_redis: RedisServer) -> None:
    store = JobStore(connect(own_redis.url))
    store.add_blob(sha("a"), "ann")
    store.submit(submission(1), **LIMITS)
    own_redis.kill()
    for act in (store.ping, store.counts, store.workers, lambda: store.get(submission(1).id, "ann")):
        with refused("state_unavailable"):
            act()
    own_redis.start()
    store.ping()
    store.redis.close()
