"""A Redis that lost everything is rebuilt from the manifests on disk."""

from pathlib import Path

from schemas.job import BlobRef, JobInputs, JobResult, JobState, SubmitManifest
from state.blobs import LocalBlobs, result_key, submit_key
from state.jobs import JobStore
from state.rebuild import RebuildCounts, rebuild_index
from tests.state.manifests import ending, submission


def keep(blobs: LocalBlobs, content: bytes) -> BlobRef:
    with blobs.writer() as writer:
        writer.write(content)
        name, size = writer.commit()
    return BlobRef(blob=name, bytes=size)


def on_disk(blobs: LocalBlobs, number: int, **more: str) -> SubmitManifest:
    inputs = JobInputs(model=keep(blobs, f"model {number}".encode()))
    made = submission(number, **more).model_copy(update={"inputs": inputs})
    blobs.put_document(submit_key(made.id), made.model_dump_json(by_alias=True).encode())
    return made


def test_finished_and_queued_jobs_come_back_and_damaged_ones_do_not(store: JobStore, tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    waiting = on_disk(blobs, 1, key="k")
    done = on_disk(blobs, 2)
    blobs.delete(done.inputs.model.blob)  # as when the job ended
    made = [keep(blobs, str(number).encode()) for number in range(5)]
    result = JobResult(
        artifact=made[0],
        report_json=made[1],
        report_html=made[2],
        report_md=made[3],
        files=(made[4].model_copy(update={"name": "curve.csv"}),),
        verdict={"met": True},
    )
    ended = ending(done.id, 2).model_copy(update={"result": result})
    blobs.put_document(result_key(done.id), ended.model_dump_json().encode())
    damaged = on_disk(blobs, 3)
    blobs.delete(damaged.inputs.model.blob)
    blobs.put_document(submit_key("4" * 32), b"{")

    counts = rebuild_index(store, blobs, now=lambda: waiting.created_at + 5)

    assert RebuildCounts(queued=1, finished=1, known=0, damaged=2) == counts
    assert waiting == store.get(waiting.id, "ann").manifest
    assert waiting.id == store.repeat_of("ann", "k", "b1")
    back = store.get(done.id, "ann")
    assert (JobState.SUCCEEDED, 2, result, 7.0) == (back.state, back.attempt, back.result, back.finished_at)
    assert store.owns_blob(made[0].blob, "ann")
    assert store.owns_blob(made[4].blob, "ann")
    assert [2, 1] == [int(job.manifest.id, 16) for job in store.page("ann", limit=9, cursor=None)[0]]
    assert store.claim(waiting.id, "w", lease_seconds=5)
    assert 5 == len(store.delete(done.id, "ann").blobs)


def test_what_redis_knows_stays_as_it_is(store: JobStore, tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    job = on_disk(blobs, 1)
    rebuild_index(store, blobs)
    store.claim(job.id, "w", lease_seconds=5)
    assert RebuildCounts(known=1) == rebuild_index(store, blobs)
    assert JobState.RUNNING == store.get(job.id, "ann").state


def test_an_idempotency_key_that_is_too_old_is_not_restored(store: JobStore, tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    on_disk(blobs, 1, key="k")
    rebuild_index(store, blobs, idempotency_seconds=60, now=lambda: 1e9)
    assert None is store.repeat_of("ann", "k", "b1")
