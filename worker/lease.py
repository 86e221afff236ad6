"""The lease of one attempt: a thread that keeps the job, reports its progress, and hears whether to go on.

In: a claim. Out: `verdict`: None while all is well, "cancel" once the owner wants it stopped, "lost" once the job
belongs to somebody else. Redis being away is no verdict: the thread goes on asking.
"""

import threading
from typing import Literal

from schemas.errors import EspalierError
from schemas.job import Progress
from state.jobs import Claim, JobStore

# A cancelled job stops within about this time, whatever the lease.
SLOWEST_SECONDS = 1.0
# A new stage is told at once, but not more often than this; within a stage the next renewal will do.
MERGE_SECONDS = 0.1
# A child that invents stages does not fill our memory.
MOST_WAITING = 50


class Lease(threading.Thread):
    """Renew every third of the lease, and whenever there is progress to tell."""

    def __init__(self, store: JobStore, claim: Claim, *, lease_seconds: float) -> None:
        super().__init__(name=f"lease-{claim.manifest.id}", daemon=True)
        self._store = store
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._waiting: list[Progress] = []
        self._told: str | None = None
        self._guard = threading.Lock()
        self._news = threading.Event()
        self._stopped = threading.Event()
        self.verdict: Literal["cancel", "lost"] | None = None

    def report(self, progress: Progress) -> None:
        """Tell where the job stands, soon. Of each stage only the latest word counts."""
        with self._guard:
            if self._waiting and self._waiting[-1].stage == progress.stage:
                self._waiting[-1] = progress
            elif len(self._waiting) < MOST_WAITING:
                self._waiting.append(progress)
            if progress.stage != self._told:
                self._news.set()

    def settle(self) -> Literal["cancel", "lost"] | None:
        """Say at once what waits to be said; the verdict after it. An absent Redis is left for `finish` to wait for."""
        self._renew()
        return self.verdict

    def run(self) -> None:
        period = min(self._lease_seconds / 3, SLOWEST_SECONDS)
        while not self._stopped.is_set() and self.verdict != "lost":
            self._news.wait(period)
            self._news.clear()
            self._renew()
            self._stopped.wait(MERGE_SECONDS)

    def stop(self) -> None:
        """End the thread; the lease then runs out by itself."""
        self._stopped.set()
        self._news.set()
        self.join()

    def _renew(self) -> None:
        with self._guard:
            waiting, self._waiting = self._waiting, []
            self._told = waiting[-1].stage if waiting else self._told
        told: list[Progress | None] = [*waiting] or [None]
        for progress in told:
            try:
                said = self._store.renew(
                    self._claim.manifest.id,
                    self._claim.attempt,
                    lease_seconds=self._lease_seconds,
                    progress=progress,
                )
            except EspalierError:
                return  # the next round asks again; progress that nobody heard is out of date by then
            if said != "held":
                self.verdict = said
