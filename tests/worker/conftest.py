"""A workplace with a real Redis, a real folder and a real launcher, whose jobs do as their model file says."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.job import BlobRef, JobInputs, SubmitManifest
from state.blobs import BlobStore, LocalBlobs
from state.jobs import JobStore, connect
from state.settings import Settings
from tests.state.manifests import submission
from worker.attempt import Workplace
from worker.children import Launcher, launcher_environment

JOBS = (sys.executable, str(Path(__file__).parent / "jobs.py"))
MEBI = 1024 * 1024

Submit = Callable[..., SubmitManifest]


def submit_to(store: JobStore, blobs: BlobStore, doing: str, number: int = 1) -> SubmitManifest:
    """Queue a job whose model file holds one line."""
    made = submission(number)
    with blobs.writer() as writer:
        writer.write(f"{doing}\njob {number}".encode())
        store.hold_blob(writer.sha, made.owner, made.id)
        name, size = writer.commit()
    inputs = JobInputs(model=BlobRef(blob=name, bytes=size, name="net.onnx"))
    made = made.model_copy(update={"inputs": inputs})
    store.submit(made, max_queued=100, max_per_owner=100, idempotency_seconds=60)
    return made


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=redis_url,
        home=tmp_path / "home",
        lease_seconds=2.0,
        job_memory_bytes=400 * MEBI,
        job_wall_seconds=60,
        max_data_bytes=MEBI,
    )


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    launcher = Launcher(JOBS, launcher_environment(os.environ, cuda=False))
    yield launcher
    launcher.close()


@pytest.fixture
def place(settings: Settings, launcher: Launcher) -> Iterator[Workplace]:
    client = connect(settings.redis_url)
    yield Workplace(settings, JobStore(client), LocalBlobs(settings.home), launcher)
    client.close()
