"""What is killed while a job runs is started again, and the job ends as if nothing had happened."""

import json
from collections.abc import Callable

from schemas.job import Job, JobState, ResultManifest
from tests.serving import eventually
from tests.system.conftest import LOOK, Running, Work


def running_job(running: Running, work: Work) -> Job:
    """A job whose engine is in the middle of the data."""
    job = running.client.submit(work.model, LOOK, calibration=work.calibration)
    for event in running.client.events(job.id):
        if event.progress is not None and event.progress.stage == "observe":
            break
    job = running.client.get(job.id)
    assert (JobState.RUNNING, 1) == (job.state, job.attempt)
    return job


def one_result(running: Running, job: Job) -> None:
    """The job's manifest, its state and its files say the same, once."""
    manifest = ResultManifest.model_validate_json((running.home / f"jobs/{job.id}/result.json").read_bytes())
    assert (job.attempt, job.result) == (manifest.attempt, manifest.result)
    assert job.result is not None
    ends = [event.state for event in running.client.events(job.id) if event.state and event.state.finished]
    assert [JobState.SUCCEEDED] == ends
    files = sorted(f"blobs/{ref.blob[7:9]}/{ref.blob[7:]}" for ref in job.result.all())
    assert running.settles_to(files), running.left_on_disk()
    report = running.client.report(job.id)
    assert report.provenance.artifact_sha256.removeprefix("sha256:") == job.result.artifact.blob[7:]


def test_kill_9_of_the_worker(started: Callable[..., Running], long_work: Work) -> None:
    running = started()
    worker = running.serve.part("worker.app")
    family = [worker, *worker.children(recursive=True)]
    job = running_job(running, long_work)
    family = list({*family, *worker.children(recursive=True)})
    worker.kill()
    eventually(lambda: not [one for one in family if one.is_running() and one.status() != "zombie"])
    ended = running.client.wait(job.id)
    assert (JobState.SUCCEEDED, 2) == (ended.state, ended.attempt), ended.failure
    one_result(running, ended)


def test_kill_9_of_redis(started: Callable[..., Running], long_work: Work) -> None:
    running = started()
    job = running_job(running, long_work)
    running.serve.part("redis.sock").kill()
    ended = running.client.wait(job.id)
    assert JobState.SUCCEEDED is ended.state, ended.failure
    one_result(running, ended)
    assert any("redis was killed by SIGKILL" in line for line in running.serve.log)


def test_kill_9_of_the_api(started: Callable[..., Running], long_work: Work) -> None:
    running = started()
    job = running_job(running, long_work)
    running.serve.part("service.api").kill()
    ended = running.client.wait(job.id)
    assert (JobState.SUCCEEDED, 1) == (ended.state, ended.attempt)
    one_result(running, ended)


def test_kill_9_of_everything(started: Callable[..., Running], long_work: Work) -> None:
    running = started()
    job = running_job(running, long_work)
    running.serve.process.kill()
    again = started()
    ended = again.client.wait(job.id)
    assert (JobState.SUCCEEDED, 2) == (ended.state, ended.attempt), json.dumps(ended.model_dump(mode="json"))
    one_result(again, ended)
