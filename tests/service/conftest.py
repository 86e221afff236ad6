"""A real API on a loopback port, in a thread of the test, with a real Redis. What a worker would do, the test does."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from schemas.job import BlobRef, JobResult, JobState, ResultManifest, Verdict
from service.app import create_app
from service.context import Service
from service.server import make_server
from state.settings import Settings
from tests.conftest import RedisServer, die_with_parent

ARTIFACT = bytes(range(256)) * 20
REPORTS = {"json": b'{"report": 1}', "html": b"<h1>report</h1>", "md": b"# report"}


@dataclass(frozen=True)
class Api:
    """A running API, what stands behind it, and a client for it."""

    service: Service
    home: Path
    port: int
    client: httpx.Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def submit(self, *, model: bytes = b"model", options: str = "{}", **headers: str) -> str:
        """A job from a form with calibration data; its id."""
        files = {"model": ("net.onnx", model), "calibration": ("cal.npz", b"data")}
        answer = self.client.post("/prune", files=files, data={"options": options}, headers=headers)
        assert 202 == answer.status_code, answer.text
        return str(answer.json()["id"])

    def start(self, job_id: str) -> int:
        """What a worker does first; the attempt."""
        claim = self.service.jobs.claim(job_id, "worker", lease_seconds=60)
        assert claim is not None
        return claim.attempt

    def succeed(self, job_id: str, further: Mapping[str, bytes] | None = None) -> None:
        """What a worker does last: the files, the manifest, the state."""
        attempt = self.start(job_id)
        kept = {name: self._keep(data) for name, data in {"artifact": ARTIFACT, **REPORTS}.items()}
        result = JobResult(
            artifact=kept["artifact"],
            report_json=kept["json"],
            report_html=kept["html"],
            report_md=kept["md"],
            files=tuple(self._keep(data).model_copy(update={"name": name}) for name, data in (further or {}).items()),
            verdict=Verdict(met=True),
        )
        self._end(ResultManifest(id=job_id, attempt=attempt, finished_at=1.0, state=JobState.SUCCEEDED, result=result))

    def fail(self, job_id: str) -> None:
        """The same for a job without a result."""
        attempt = self.start(job_id)
        self._end(ResultManifest(id=job_id, attempt=attempt, finished_at=1.0, state=JobState.FAILED))

    def files(self) -> list[str]:
        """Everything that lies in the home folder."""
        return sorted(path.relative_to(self.home).as_posix() for path in self.home.rglob("*") if path.is_file())

    def _end(self, manifest: ResultManifest) -> None:
        accepted, orphans = self.service.jobs.finish(manifest)
        assert accepted
        for blob in orphans.blobs:
            self.service.blobs.delete(blob)
            self.service.jobs.done_discarding(blob)

    def _keep(self, data: bytes) -> BlobRef:
        with self.service.blobs.writer() as writer:
            writer.write(data)
            blob, size = writer.commit()
        return BlobRef(blob=blob, bytes=size)


@contextmanager
def running(settings: Settings) -> Iterator[Api]:
    """An API for these settings, until the block ends."""
    app = create_app(settings)
    server = make_server(app, settings)
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield Api(app.state.service, settings.home, port, client)
    finally:
        app.state.service.feed.stopping.set()
        server.should_exit = True
        thread.join()


@pytest.fixture
def serve(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Starts an API with some settings changed; all are stopped with the test."""
    with ExitStack() as stack:

        def go(**changed: object) -> Api:
            given = {"redis_url": redis_url, "home": tmp_path / "home", "port": 0, **changed}
            return stack.enter_context(running(Settings.model_validate(given)))

        yield go


@pytest.fixture(scope="session")
def default_api(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One API with the default settings for all tests that leave the process as it is."""
    home = tmp_path_factory.mktemp("api") / "home"
    with running(Settings(redis_url=redis_server.url, home=home, port=0)) as api:
        yield api


@pytest.fixture
def api(default_api: Api, redis_url: str) -> Api:
    """An API with the default settings (keyless, loopback), an empty Redis and an empty home."""
    shutil.rmtree(default_api.home, ignore_errors=True)
    return default_api


@pytest.fixture
def process(redis_url: str, tmp_path: Path) -> Iterator[tuple[psutil.Process, str]]:
    """The API as a process of its own, and its address."""
    env = {**os.environ, "ESPALIER_REDIS_URL": redis_url, "ESPALIER_HOME": str(tmp_path / "home"), "ESPALIER_PORT": "0"}
    command = [sys.executable, "-m", "service.api"]
    running = subprocess.Popen(command, env=env, cwd=Path(__file__).parents[2], preexec_fn=die_with_parent)  # noqa: PLW1509
    try:
        seen = psutil.Process(running.pid)
        while not (listening := [one for one in seen.net_connections("tcp") if one.status == psutil.CONN_LISTEN]):
            assert running.poll() is None
        yield seen, f"http://127.0.0.1:{listening[0].laddr.port}"
    finally:
        running.terminate()
        running.wait()
