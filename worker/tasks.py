"""The one Celery task: a bell has rung for a job.

In: a job id. Out: nothing; the state of the job is in Redis. The only broad `except` of the worker is here: whatever
escapes an attempt is logged and ends the job as `internal_error`, and the worker goes on.
"""

import logging

from celery import Celery

from schemas.errors import EspalierError
from state.bell import TASK
from worker.station import Station

log = logging.getLogger(__name__)


def add_tasks(app: Celery, station: Station) -> None:
    """Register the task; `station` has been opened by the time that it runs."""

    @app.task(name=TASK)  # type: ignore[untyped-decorator]  # Celery ships no types
    def run(job_id: str) -> None:
        answer(station, job_id)


def answer(station: Station, job_id: str) -> None:
    """Claim the job and run it, unless it is somebody else's by now."""
    try:
        claim = station.claim(job_id)
    except EspalierError as error:
        log.warning("job %s was not claimed, a reaper will ring again: %s", job_id, error)
        return
    if claim is None:
        log.info("job %s is not waiting any more", job_id)
        return
    try:
        station.work(claim)
    except Exception as error:
        log.exception("job %s, attempt %d", job_id, claim.attempt)
        station.give_up(claim, error)
