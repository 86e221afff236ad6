"""One worker process: its launcher, its heartbeat, its reaper, and the jobs it is rung for.

In: the settings, and job ids from `worker/tasks.py`. Out: effects only. It lives in the pool process that Celery forks,
and dies with Celery's main process, however that ends.
"""

import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Literal, cast

from schemas.errors import EspalierError
from state.bell import Bell
from state.blobs import open_blobs
from state.jobs import Claim, JobStore, Queue, WorkerInfo, connect
from state.reaper import Reaper
from state.settings import Settings
from worker.attempt import Workplace, attempt, give_up
from worker.children import Launcher, LauncherDied, launcher_environment
from worker.sandbox import Sandbox, die_with_parent
from worker.workspace import sweep

LAUNCHER = (sys.executable, "-m", "worker.launcher")
BEAT_SECONDS = 3.0
SHORTEST_TTL_SECONDS = 5.0

log = logging.getLogger(__name__)


def probe() -> Sandbox:
    """How far this machine confines a process: asked of a real one."""
    with tempfile.TemporaryDirectory(prefix="espalier-probe-") as folder:
        command = [sys.executable, "-m", "worker.sandbox"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        log.error("the sandbox cannot be tried: %s", done.stderr.strip())
        return Sandbox("off", ("sandbox",))
    level, *missing = done.stdout.split()
    return Sandbox(cast(Literal["full", "partial", "off"], level), tuple(missing))


class Station:
    """Everything that one worker process has. `open` it once, in the process that will run the jobs."""

    def __init__(self, settings: Settings, *, launcher: Sequence[str] = LAUNCHER) -> None:
        self.settings = settings
        self.queue: Queue = "gpu" if settings.device == "cuda" else "cpu"
        self._command = launcher
        self._stopped = threading.Event()
        self._place: Workplace | None = None

    def open(self, main_pid: int) -> None:
        """Start the launcher, the heartbeat and the reaper; be killed when `main_pid` ends."""
        die_with_parent(main_pid)
        environ = launcher_environment(os.environ, cuda=self.settings.device == "cuda")
        launcher = Launcher(self._command, environ)
        launcher.start()
        store, blobs = JobStore(connect(self.settings.redis_url)), open_blobs(self.settings)
        self._place = Workplace(self.settings, store, blobs, launcher)
        for name in sweep(self.settings.home):
            log.info("removed %s, which a dead worker left behind", name)
        threading.Thread(target=self._beat, args=(store,), name="heartbeat", daemon=True).start()
        Reaper(store, blobs, Bell(self.settings), self.settings).start()

    def close(self) -> None:
        """Say goodbye."""
        self._stopped.set()
        if self._place is None:
            return
        self._place.launcher.close()
        try:
            self._place.store.gone(self.name)
        except EspalierError as error:
            log.info("left without a goodbye: %s", error)

    @property
    def name(self) -> str:
        """What this worker is called in the list of workers."""
        return f"{self.queue}@{socket.gethostname()}-{os.getpid()}"

    def claim(self, job_id: str) -> Claim | None:
        """The job, if it still waits for somebody."""
        assert self._place is not None
        return self._place.store.claim(job_id, self.name, lease_seconds=self.settings.lease_seconds)

    def work(self, claim: Claim) -> None:
        """Run a claimed job to its end."""
        assert self._place is not None
        try:
            attempt(claim, self._place)
        except LauncherDied as error:
            # Nobody knows whether the job did it. Its lease runs out, and it is tried again, three times in all.
            log.warning("job %s lost its launcher: %s", claim.manifest.id, error)
            self._place.launcher.start()

    def give_up(self, claim: Claim, error: Exception) -> None:
        """End a job that met a defect of ours."""
        assert self._place is not None
        failure = EspalierError("internal_error", f"{type(error).__name__}: {str(error)[:300]}").failure
        give_up(claim, self._place, failure)

    def _beat(self, store: JobStore) -> None:
        sandbox = probe() if self.settings.sandbox != "off" else Sandbox("off", ("landlock", "seccomp"))
        log.info("jobs are confined: %s %s", sandbox.level, ", ".join(sandbox.missing))
        me = WorkerInfo(
            name=self.name,
            queue=self.queue,
            sandbox_level=sandbox.level,
            sandbox_missing=sandbox.missing,
            pid=os.getpid(),
            host=socket.gethostname(),
            started_at=time.time(),
        )
        period = min(self.settings.lease_seconds / 3, BEAT_SECONDS)
        while True:
            try:
                store.beat(me, max(3 * period, SHORTEST_TTL_SECONDS))
            except EspalierError as error:
                log.warning("no heartbeat: %s", error)
            if self._stopped.wait(period):
                return
