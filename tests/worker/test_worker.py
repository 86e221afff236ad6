"""Real Celery workers on a real Redis: what happens when processes die, stop, or lose Redis in the middle of a job."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from schemas.job import JobState
from state.bell import Bell
from state.blobs import LocalBlobs
from state.jobs import JobRecord, JobStore, connect
from state.reaper import Reaper
from state.settings import Settings
from tests.conftest import RedisServer, die_with_parent
from tests.worker.conftest import submit_to

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "celery", "-q", "-A", "tests.worker.celery_app", "worker", "--loglevel", "INFO")
COMMAND += ("--without-gossip", "--without-mingle", "--without-heartbeat")


def eventually(check: Callable[[], object], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


class Service:
    """What the service does for its jobs, and the workers that a test starts."""

    def __init__(self, server: RedisServer, home: Path) -> None:
        self.server = server
        self.home = home
        self.settings = Settings(redis_url=server.url, home=home, lease_seconds=1.5, max_data_bytes=2**20)
        self.store = JobStore(connect(server.url))
        self.blobs = LocalBlobs(home)
        self.bell = Bell(self.settings)
        self.reaper = Reaper(self.store, self.blobs, self.bell, self.settings)
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self) -> subprocess.Popen[bytes]:
        known = self.store.workers()
        env = {**os.environ, **self.settings.to_env(), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
        with (self.home / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [*COMMAND, "-n", f"w{len(self.workers)}@%h"],
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        self.workers.append(worker)
        before = {info.name for info in known}
        eventually(lambda: {info.name for info in self.store.workers()} - before)
        return worker

    def submit(self, doing: str, number: int = 1, *, ring: bool = True) -> str:
        job = submit_to(self.store, self.blobs, doing, number)
        if ring:
            assert self.bell.ring(job.id, "cpu")
        return job.id

    def job(self, job_id: str) -> JobRecord:
        return self.store.get(job_id, "ann")

    def wait_for(self, job_id: str, state: JobState, seconds: float = 40) -> JobRecord:
        eventually(lambda: self.job(job_id).state is state, seconds)
        return self.job(job_id)

    def wait_until_it_works(self, job_id: str) -> None:
        eventually(lambda: self.job(job_id).progress.stage == "observe")

    def log(self, number: int = 0) -> str:
        return (self.home / f"worker-{number}.log").read_text(errors="replace")

    def starts(self, job_id: str) -> int:
        events = self.store.events_after(job_id, "0", block_ms=0)
        return len({event.attempt for event in events if event.state is JobState.RUNNING})

    def stop(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            worker.wait()
        if self.reaper.is_alive():
            self.reaper.stop()
            self.reaper.join()
        self.bell.close()
        self.store.redis.close()


@pytest.fixture
def service(own_redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    service = Service(own_redis, tmp_path)
    yield service
    service.stop()


def family(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Celery's main process, its pool process, the launcher, the job."""
    main = psutil.Process(worker.pid)
    return [main, *main.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def test_a_worker_says_what_it_is_and_runs_what_it_is_rung_for(service: Service) -> None:
    service.start_worker()
    (info,) = service.store.workers()
    assert ("cpu", "full", ()) == (info.queue, info.sandbox_level, info.sandbox_missing)
    first, second = service.submit("prune a", 1), service.submit("refuse model_invalid", 2)
    assert JobState.SUCCEEDED == service.wait_for(first, JobState.SUCCEEDED).state
    failed = service.wait_for(second, JobState.FAILED)
    assert failed.failure is not None
    assert "model_invalid" == failed.failure.code


def test_kill_nine_of_the_worker_takes_all_with_it_and_another_attempt_succeeds(service: Service) -> None:
    worker = service.start_worker()
    job_id = service.submit("sleep 2")
    service.wait_until_it_works(job_id)
    processes = family(worker)
    assert 4 == len(processes)
    worker.kill()
    eventually(lambda: gone(processes))
    worker.wait()
    service.start_worker()  # its own reaper takes the job back: no other runs here
    job = service.wait_for(job_id, JobState.SUCCEEDED)
    assert (2, 2) == (job.attempt, service.starts(job_id))
    assert [] == list((service.home / "tmp" / "work").iterdir())


def test_a_poison_job_fails_after_three_attempts(service: Service) -> None:
    """Each time the job starts, its worker is killed."""
    service.settings = service.settings.model_copy(update={"lease_seconds": 0.5})
    service.reaper = Reaper(service.store, service.blobs, service.bell, service.settings)
    service.reaper.start()
    job_id = service.submit("sleep 600")
    for attempt in (1, 2, 3):
        worker = service.start_worker()
        eventually(lambda attempt=attempt: service.job(job_id).attempt == attempt)
        worker.kill()
        worker.wait()
    job = service.wait_for(job_id, JobState.FAILED)
    assert job.failure is not None
    assert ("worker_lost", 3) == (job.failure.code, job.attempt)


def test_a_stopped_worker_that_wakes_up_is_refused(service: Service) -> None:
    first = service.start_worker()
    job_id = service.submit("sleep 1.5")
    service.wait_until_it_works(job_id)
    processes = family(first)
    for one in processes:
        one.suspend()
    service.reaper.start()
    service.start_worker()
    job = service.wait_for(job_id, JobState.SUCCEEDED)
    assert 2 == job.attempt
    for one in processes:
        one.resume()
    eventually(lambda: "is left: another attempt has the job" in service.log(0))
    assert job == service.job(job_id)
    again = service.submit("prune afterwards", 2)
    service.wait_for(again, JobState.SUCCEEDED)


def test_five_bells_for_one_job_are_one_run(service: Service) -> None:
    job_id = service.submit("sleep 0.5")
    for _ in range(4):
        service.bell.ring(job_id, "cpu")
    service.start_worker()
    last = service.submit("prune last", 2)
    service.wait_for(last, JobState.SUCCEEDED)
    assert (JobState.SUCCEEDED, 1) == (service.job(job_id).state, service.starts(job_id))


def test_a_bell_that_was_never_rung_is_rung_by_a_reaper(service: Service) -> None:
    service.start_worker()
    job_id = service.submit("prune x", ring=False)
    service.wait_for(job_id, JobState.SUCCEEDED)


def test_kill_nine_of_redis_in_mid_job_loses_nothing(service: Service) -> None:
    service.start_worker()
    job_id = service.submit("sleep 3")
    service.wait_until_it_works(job_id)
    service.store.redis.execute_command("WAITAOF", 1, 0, 5000)
    service.server.kill()
    time.sleep(1)
    service.server.start()
    job = service.wait_for(job_id, JobState.SUCCEEDED)
    assert job.result is not None
    after = service.submit("prune after", 2)
    service.wait_for(after, JobState.SUCCEEDED)


def test_a_job_of_a_worker_is_cancelled_within_seconds_and_the_worker_goes_on(service: Service) -> None:
    service.start_worker()
    job_id = service.submit("sleep 600")
    service.wait_until_it_works(job_id)
    service.store.cancel(job_id, "ann")
    service.wait_for(job_id, JobState.CANCELLED, 10)
    service.wait_for(service.submit("prune x", 2), JobState.SUCCEEDED)


def test_a_launcher_that_is_killed_is_replaced_and_the_job_tried_again(service: Service) -> None:
    worker = service.start_worker()
    job_id = service.submit("sleep 1")
    service.wait_until_it_works(job_id)
    (launcher,) = [one for one in family(worker) if one.children() and "jobs.py" in " ".join(one.cmdline())]
    launcher.kill()
    assert 2 == service.wait_for(job_id, JobState.SUCCEEDED).attempt


def test_a_pool_process_that_is_killed_is_replaced_by_celery(service: Service) -> None:
    worker = service.start_worker()
    job_id = service.submit("sleep 1")
    service.wait_until_it_works(job_id)
    main, pool, *others = family(worker)
    pool.kill()
    eventually(lambda: gone([pool, *others]))
    assert 2 == service.wait_for(job_id, JobState.SUCCEEDED).attempt
    assert main.is_running()


def test_sigterm_lets_the_running_job_finish(service: Service) -> None:
    worker = service.start_worker()
    job_id = service.submit("sleep 1.5")
    service.wait_until_it_works(job_id)
    waiting = service.submit("prune later", 2)
    processes = family(worker)
    worker.terminate()
    worker.wait(30)
    assert (JobState.SUCCEEDED, 1) == (service.job(job_id).state, service.job(job_id).attempt)
    assert JobState.QUEUED == service.job(waiting).state
    eventually(lambda: gone(processes))
    assert [] == service.store.workers()


def test_a_second_sigterm_ends_everything_at_once(service: Service) -> None:
    worker = service.start_worker()
    job_id = service.submit("sleep 600")
    service.wait_until_it_works(job_id)
    processes = family(worker)
    worker.terminate()
    eventually(lambda: "shutdown" in service.log())
    worker.terminate()
    assert 1 == worker.wait(20)
    eventually(lambda: gone(processes))
    assert JobState.RUNNING == service.job(job_id).state
