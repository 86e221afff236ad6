"""Attempts at jobs that do everything a job may do wrong, each in a real confined process."""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from schemas.errors import EspalierError
from schemas.job import JobState, ResultManifest
from state.blobs import LocalBlobs, result_key, submit_key
from state.jobs import JobRecord, JobStore, connect
from state.object_blobs import ObjectBlobs
from state.rebuild import rebuild_index
from tests.conftest import RedisServer
from tests.worker.conftest import JOBS, MEBI, submit_to
from worker.attempt import Workplace, attempt, bounds_of
from worker.children import Launcher, LauncherDied, launcher_environment, resident_bytes
from worker.workspace import sweep, workspace


def run(place: Workplace, doing: str, **changed: object) -> JobRecord:
    place = dataclasses.replace(place, settings=place.settings.model_copy(update=changed))
    job = submit_to(place.store, place.blobs, doing)
    claim = place.store.claim(job.id, "w", lease_seconds=place.settings.lease_seconds)
    assert claim is not None
    attempt(claim, place)
    return place.store.get(job.id, "ann")


def failed(job: JobRecord) -> tuple[str, str]:
    assert job.failure is not None, job
    assert JobState.FAILED == job.state
    return job.failure.code, job.failure.detail


def left(place: Workplace) -> list[str]:
    """The top folder of every file that is still there."""
    files = [path for path in place.settings.home.rglob("*") if path.is_file() and path.name != "work.lock"]
    return sorted(path.relative_to(place.settings.home).parts[0] for path in files)


def eventually(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_leaves_its_four_files_a_manifest_and_nothing_else(place: Workplace) -> None:
    job = run(place, "prune well")
    assert JobState.SUCCEEDED == job.state
    assert job.result is not None
    assert b"pruned well" == b"".join(place.blobs.read(job.result.artifact.blob))
    assert ("net.pruned.onnx", 11) == (job.result.artifact.name, job.result.artifact.bytes)
    assert b"report" == b"".join(place.blobs.read(job.result.report_md.blob))
    text = place.blobs.get_document(result_key(job.manifest.id))
    assert text is not None
    assert job.result == ResultManifest.model_validate_json(text).result
    assert ["blobs"] * 4 + ["jobs"] == left(place)  # the model is gone, the work folder too
    orphans = place.store.delete(job.manifest.id, "ann")
    assert {ref.blob for ref in job.result.all()} == set(orphans.blobs)


def test_the_same_with_an_object_store_instead_of_a_folder(place: Workplace) -> None:
    objects = ObjectBlobs(MemoryStore(), place.settings.home)
    job = run(dataclasses.replace(place, blobs=objects), "prune there")
    assert job.result is not None, job.failure
    assert b"pruned there" == b"".join(objects.read(job.result.artifact.blob))
    assert None is objects.exists(job.manifest.inputs.model.blob)
    assert [] == left(place)


def test_a_lost_redis_is_rebuilt_with_the_result(place: Workplace) -> None:
    done = run(place, "prune well")
    place.blobs.put_document(submit_key(done.manifest.id), done.manifest.model_dump_json(by_alias=True).encode())
    place.store.redis.flushall()
    assert 1 == rebuild_index(place.store, place.blobs).finished
    back = place.store.get(done.manifest.id, "ann")
    assert (JobState.SUCCEEDED, done.result) == (back.state, back.result)


def test_the_settings_become_the_bounds_of_a_child(place: Workplace) -> None:
    given = place.settings.model_copy(update={"job_threads": 3, "max_data_bytes": 7, "job_cpu_seconds": 9.0})
    bounds = bounds_of(given, None)
    assert (3, 7, 9, given.job_memory_bytes) == (
        bounds.threads,
        bounds.data_bytes,
        bounds.cpu_seconds,
        bounds.memory_bytes,
    )
    assert len(os.sched_getaffinity(0)) == bounds_of(place.settings, None).threads
    assert None is bounds_of(given.model_copy(update={"device": "cuda"}), None).memory_bytes


def test_every_stage_is_heard_of(place: Workplace) -> None:
    job = run(place, "tell all")
    events = place.store.events_after(job.manifest.id, "0", block_ms=0)
    stages = [event.progress.stage for event in events if event.progress]
    assert ["load", "data", "analyse", "observe", "select", "cut"] == list(dict.fromkeys(stages))
    assert [JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED] == [one.state for one in events if one.state]


def test_a_long_stage_does_not_flood_the_stream(place: Workplace) -> None:
    """The child speaks twenty times a second; the stream hears of it about once."""
    job = run(place, "sleep 2")
    events = place.store.events_after(job.manifest.id, "0", block_ms=0)
    observed = [event for event in events if event.progress and event.progress.stage == "observe"]
    assert 2 <= len(observed) <= 8


def test_a_failure_of_the_engine_is_the_jobs(place: Workplace) -> None:
    job = run(place, "refuse nothing_to_prune")
    assert ("nothing_to_prune", "as it was told to") == failed(job)
    assert job.failure is not None
    assert "model" == job.failure.where
    assert ["jobs"] == left(place)


@pytest.mark.parametrize(
    ("doing", "code", "word"),
    [
        ("crash SIGSEGV", "job_crashed", "SIGSEGV"),
        ("crash SIGABRT", "job_crashed", "SIGABRT"),
        ("crash SIGKILL", "job_crashed", "killed from outside"),
        ("leave 0", "job_crashed", "exit code 0"),
        ("leave 7", "job_crashed", "exit code 7"),
        ("stumble here", "internal_error", "ZeroDivisionError: here"),
        ("babble {}x", "job_crashed", "without a result"),
        ('babble {"progress": {"stage": 5}}', "job_crashed", "without a result"),
        ("grab 600", "job_out_of_memory", "an allocation failed"),
    ],
)
def test_a_child_that_dies_ends_the_job_with_a_name(place: Workplace, doing: str, code: str, word: str) -> None:
    said, detail = failed(run(place, doing))
    assert code == said
    assert word in detail
    assert ["jobs"] == left(place)


@pytest.mark.parametrize(
    ("doing", "changed", "code", "word"),
    [
        ("sleep 600", {"job_wall_seconds": 0.5}, "job_timeout", "ESPALIER_JOB_WALL_SECONDS"),
        (
            "threads 30",
            {"job_wall_seconds": 0.5, "job_memory_bytes": 2048 * MEBI},
            "job_timeout",
            "ESPALIER_JOB_WALL_SECONDS",
        ),
        ("prune hang the verifier", {"job_wall_seconds": 1.0}, "job_timeout", "ESPALIER_JOB_WALL_SECONDS"),
        ("spin", {"job_cpu_seconds": 1}, "job_timeout", "ESPALIER_JOB_CPU_SECONDS"),
        # With CUDA the address space cannot be limited: the worker looks at what is resident.
        ("allocate 600", {"device": "cuda"}, "job_out_of_memory", "ESPALIER_JOB_MEMORY_BYTES"),
        ("grab 600", {"device": "cuda", "job_wall_seconds": 0.5}, "job_timeout", "ESPALIER_JOB_WALL_SECONDS"),
        ("grab 200", {"job_memory_bytes": 100 * MEBI}, "job_out_of_memory", "an allocation failed"),
    ],
)
def test_every_limit_is_enforced(
    place: Workplace, doing: str, changed: dict[str, object], code: str, word: str
) -> None:
    said, detail = failed(run(place, doing, **changed))
    assert (code, True) == (said, word in detail), detail


def test_more_memory_is_given_where_the_settings_allow_it(place: Workplace) -> None:
    job = run(place, "allocate 200", job_wall_seconds=1.5)
    assert "job_timeout" == failed(job)[0]  # it got its memory, and slept


def test_further_files_are_part_of_the_result_and_go_with_it(place: Workplace) -> None:
    job = run(place, 'list ["curve.csv", "model.c", "point-01.onnx"]')
    assert job.result is not None, job.failure
    fixed = ["artifact.onnx", "report.json", "report.html", "report.md"]
    assert [*fixed, "curve.csv", "model.c", "point-01.onnx"] == list(job.result.named())
    assert b"model.c" == b"".join(place.blobs.read(job.result.named()["model.c"].blob))
    assert ["blobs"] * 7 + ["jobs"] == left(place)
    text = place.blobs.get_document(result_key(job.manifest.id))
    assert text is not None
    assert job.result == ResultManifest.model_validate_json(text).result
    assert {ref.blob for ref in job.result.all()} == set(place.store.delete(job.manifest.id, "ann").blobs)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["../../escape"], "String should match pattern"),
        ([".hidden"], "String should match pattern"),
        (["a\nb"], "String should match pattern"),
        (["curve.csv", "curve.csv"], "taken"),
        (["artifact.onnx"], "taken"),
        (["files.json"], "taken"),
        (["missing.csv"], "No such file"),
        ([f"f{i}" for i in range(257)], "at most 256"),
        (["invalid.onnx"], "it says so itself"),
    ],
)
def test_a_list_of_further_files_that_does_not_hold_is_refused(place: Workplace, names: list[str], word: str) -> None:
    code, detail = failed(run(place, f"list {json.dumps(names)}"))
    assert ("artifact_rejected", True) == (code, word in detail), detail
    assert ["jobs"] == left(place)


def test_a_further_file_that_is_a_link_is_refused(place: Workplace) -> None:
    code, detail = failed(run(place, 'list ["linked.csv"]', sandbox="off"))
    assert ("artifact_rejected", True) == (code, "cannot be read" in detail), detail


def test_further_files_have_a_limit_together(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.harvest.FURTHER_SHARE", 1e-7)
    code, detail = failed(run(place, 'list ["curve-with-a-name-that-is-long.csv", "model.c"]', max_data_bytes=1))
    assert ("artifact_rejected", True) == (code, "1 to " in detail), detail


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("no artifact", "No such file"),
        ("empty artifact", "has 0 bytes"),
        ("other artifact", "another file"),
        ("no weights", "another file"),
        ("bad report", "Field required"),
        ("no page", "No such file"),
        ("a folder", "not a plain file"),
    ],
)
def test_results_that_do_not_hold_are_refused(place: Workplace, how: str, word: str) -> None:
    code, detail = failed(run(place, f"spoil {how}"))
    assert ("artifact_rejected", True) == (code, word in detail), detail
    assert ["jobs"] == left(place)


@pytest.mark.parametrize(("how", "word"), [("a link", "cannot be read"), ("a second name", "not a plain file")])
def test_links_are_refused_by_the_worker_too(place: Workplace, how: str, word: str) -> None:
    """Confined jobs cannot make any; unconfined, the worker's own check must see them."""
    assert "internal_error" == failed(run(place, f"spoil {how}"))[0]
    place.store.delete(f"{1:032x}", "ann")
    code, detail = failed(run(place, f"spoil {how}", sandbox="off"))
    assert ("artifact_rejected", True) == (code, word in detail), detail


def test_the_second_child_rejects_the_artifact(place: Workplace) -> None:
    assert ("artifact_rejected", "it says so itself") == failed(run(place, "prune invalid"))


def test_a_child_sees_nothing_of_the_worker(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_REDIS_URL", "redis://secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    launcher = Launcher(JOBS, launcher_environment(os.environ, cuda=False))
    try:
        job = run(dataclasses.replace(place, launcher=launcher), "spy")
    finally:
        launcher.close()
    assert job.result is not None, job.failure
    seen = b"".join(place.blobs.read(job.result.report_md.blob)).decode()
    folder = place.settings.home / "tmp" / "work" / f"{1:032x}-1" / "work"
    # Descriptors 0 to 3, and the one that lists them.
    assert f"[] 4 refused {folder}" == seen


def test_a_flood_of_output_is_drained_and_forgotten(place: Workplace) -> None:
    assert JobState.SUCCEEDED == run(place, "shout 100").state  # 105 MB


def test_settings_that_demand_a_full_sandbox_get_one_here(place: Workplace) -> None:
    assert JobState.SUCCEEDED == run(place, "prune", sandbox="full").state


def test_cancel_kills_the_child(place: Workplace) -> None:
    job_id = f"{1:032x}"

    def cancel() -> None:
        other = JobStore(connect(place.settings.redis_url))
        eventually(lambda: other.redis.exists(f"job:{job_id}") and other.get(job_id, "ann").progress.stage == "observe")
        other.cancel(job_id, "ann")
        other.redis.close()

    thread = threading.Thread(target=cancel)
    thread.start()
    job = run(place, "sleep 600")
    thread.join()
    assert JobState.CANCELLED == job.state
    assert ["jobs"] == left(place)


def test_an_attempt_that_lost_its_job_ends_without_a_word(place: Workplace) -> None:
    """The job is taken away while the child runs, as when the worker had been stopped for longer than its lease."""
    job = submit_to(place.store, place.blobs, "sleep 600")
    claim = place.store.claim(job.id, "w", lease_seconds=5)
    assert claim is not None
    place.store.redis.hset(f"job:{job.id}", "attempt", 2)
    attempt(claim, place)
    assert JobState.RUNNING == place.store.get(job.id, "ann").state
    assert None is place.blobs.get_document(result_key(job.id))


def test_a_job_whose_input_vanished_fails(place: Workplace) -> None:
    job = submit_to(place.store, place.blobs, "prune")
    place.blobs.delete(job.inputs.model.blob)
    claim = place.store.claim(job.id, "w", lease_seconds=5)
    assert claim is not None
    attempt(claim, place)
    assert "blob_not_found" == failed(place.store.get(job.id, "ann"))[0]


def test_redis_may_be_down_when_the_job_ends(own_redis: RedisServer, place: Workplace) -> None:
    store = JobStore(connect(own_redis.url))
    place = dataclasses.replace(place, store=store, settings=place.settings.model_copy(update={"lease_seconds": 0.5}))
    job = submit_to(store, place.blobs, "sleep 1")
    claim = store.claim(job.id, "w", lease_seconds=0.5)
    assert claim is not None
    store.redis.execute_command("WAITAOF", 1, 0, 5000)
    thread = threading.Thread(target=attempt, args=(claim, place))
    thread.start()
    own_redis.kill()
    time.sleep(3)  # the job ends, and its lease too
    own_redis.start()
    thread.join()
    assert (JobState.SUCCEEDED, 1) == (store.get(job.id, "ann").state, store.get(job.id, "ann").attempt)
    store.redis.close()


def test_a_launcher_that_dies_is_replaced(place: Workplace) -> None:
    launcher = Launcher(JOBS, launcher_environment(os.environ, cuda=False))
    place = dataclasses.replace(place, launcher=launcher)
    with pytest.raises(LauncherDied):
        run(place, "kill-launcher", sandbox="off")
    assert [] == list((place.settings.home / "tmp" / "work").iterdir())
    place.store.redis.flushall()
    assert JobState.SUCCEEDED == run(place, "prune").state
    launcher.close()


def test_a_full_disk_is_waited_for_and_then_fails_the_job(place: Workplace) -> None:
    """Blobs cannot be placed: their folder is a file."""
    waits: list[float] = []

    class Elsewhere(LocalBlobs):
        def local_path(self, sha: str, folder: Path) -> Path:
            return place.blobs.local_path(sha, folder)

    broken = place.settings.home / "broken"
    submitted = submit_to(place.store, place.blobs, "prune")
    broken.write_text("")
    claim = place.store.claim(submitted.id, "w", lease_seconds=5)
    assert claim is not None
    attempt(claim, dataclasses.replace(place, blobs=Elsewhere(broken), pause=waits.append))
    assert "storage_unavailable" == failed(place.store.get(submitted.id, "ann"))[0]
    assert sum(waits) >= 60


def test_only_folders_of_dead_workers_are_swept(tmp_path: Path) -> None:
    dead = tmp_path / "tmp" / "work" / "dead"
    dead.mkdir(parents=True)
    (dead / "file").write_text("x")
    with workspace(tmp_path, "alive") as alive:
        assert ["dead"] == sweep(tmp_path)
        assert alive.is_dir()
    assert [] == list((tmp_path / "tmp" / "work").iterdir())


def test_a_folder_that_cannot_be_made_is_no_storage_and_names_no_path(tmp_path: Path) -> None:
    (tmp_path / "tmp").write_text("in the way")
    with pytest.raises(EspalierError) as caught, workspace(tmp_path, "job"):
        pass
    told = caught.value.failure
    assert ("storage_unavailable", "tmp/work", "FileExistsError: File exists") == (told.code, told.where, told.detail)


def test_resident_memory_counts_the_whole_family() -> None:
    before = resident_bytes(os.getpid())
    held = b"x" * (50 * MEBI)
    assert resident_bytes(os.getpid()) - before > 40 * MEBI
    assert 0 == resident_bytes(2**22 + 1)
    del held
