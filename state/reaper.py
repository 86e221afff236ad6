"""The reaper: a thread in every API and worker process that finds what got lost.

In: the store, the blobs, the bell, the settings. Out: jobs of silent workers back in the queue or failed for good,
bells rung again, files of orphaned blobs deleted. Any number of reapers may run at once.
"""

import logging
import threading
import time

from schemas.errors import EspalierError
from state.bell import Bell
from state.blobs import BlobStore, result_key, sweep_uploads
from state.jobs import JobStore, Orphans, Reaped
from state.settings import Settings

log = logging.getLogger(__name__)


def discard(store: JobStore, blobs: BlobStore, orphans: Orphans) -> None:
    """Delete the files of blobs that nothing refers to any more. What the storage will not delete stays behind."""
    for sha in orphans.blobs:
        try:
            blobs.delete(sha)
            store.done_discarding(sha)
        except EspalierError as error:
            log.warning("blob %s was not deleted: %s", sha, error)


class Reaper(threading.Thread):
    """Looks every half lease. It waits a whole lease first, and after every failure: while Redis was away no worker
    could renew, and a reaper that were quicker than they would restart every running job."""

    def __init__(self, store: JobStore, blobs: BlobStore, bell: Bell, settings: Settings) -> None:
        super().__init__(name="reaper", daemon=True)
        self._store = store
        self._blobs = blobs
        self._bell = bell
        self._settings = settings
        self._stopped = threading.Event()

    def run(self) -> None:
        lease = self._settings.lease_seconds
        pause = lease
        while not self._stopped.wait(pause):
            try:
                self.sweep()
                pause = lease / 2
            except EspalierError as error:
                log.warning("the reaper waits: %s", error)
                pause = lease

    def sweep(self) -> Reaped:
        """One look at everything."""
        found = self._store.reap(
            max_attempts=self._settings.max_attempts, ring_after_seconds=self._settings.lease_seconds
        )
        for manifest in found.closed:
            log.warning("job %s ends as %s without a worker", manifest.id, manifest.state)
            self._blobs.put_document(result_key(manifest.id), manifest.model_dump_json().encode())
        for job_id, queue in found.ring:
            self._bell.ring(job_id, queue)
        discard(self._store, self._blobs, found.orphans)
        for name in sweep_uploads(self._settings.home, time.time()):
            log.info("removed %s, whose writer died", name)
        return found

    def stop(self) -> None:
        """Ask the thread to end; it does after the sweep it is in."""
        self._stopped.set()
