"""Rebuild a lost Redis from the manifests on disk: finished jobs with their results, unfinished jobs back in the queue.

In: the store and the blobs. Out: how many of each. Refused: nothing; a manifest that cannot be read and a job whose
files are gone are counted, logged and left alone. Jobs that Redis knows already stay as they are, so it may run at any
time.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from schemas.job import ResultManifest, SubmitManifest
from state.blobs import BlobStore, result_key
from state.jobs import JobStore

IDEMPOTENCY_SECONDS = 86400

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RebuildCounts:
    queued: int = 0
    finished: int = 0
    known: int = 0
    damaged: int = 0


def rebuild_index(
    store: JobStore,
    blobs: BlobStore,
    *,
    idempotency_seconds: int = IDEMPOTENCY_SECONDS,
    now: Callable[[], float] = time.time,
) -> RebuildCounts:
    """Every job that left a submit manifest is in Redis afterwards, unless it is damaged."""
    queued = finished = known = damaged = 0
    for key in blobs.list_documents("jobs/"):
        if not key.endswith("/submit.json"):
            continue
        read = _read(blobs, key)
        if read is None:
            damaged += 1
            continue
        submit, result = read
        left = submit.created_at + idempotency_seconds - now()
        if not store.restore(submit, result, idempotency_seconds=max(left, 0.0)):
            known += 1
        elif result is None:
            queued += 1
        else:
            finished += 1
    return RebuildCounts(queued, finished, known, damaged)


def _read(blobs: BlobStore, key: str) -> tuple[SubmitManifest, ResultManifest | None] | None:
    """The manifests of one job, or None where they or the files they name are not there."""
    try:
        submit = SubmitManifest.model_validate_json(blobs.get_document(key) or b"")
        ended = blobs.get_document(result_key(submit.id))
        result = ResultManifest.model_validate_json(ended) if ended is not None else None
    except ValidationError as error:
        log.warning("%s cannot be read: %s", key, error.errors()[0]["msg"])
        return None
    made = result.result.all() if result and result.result else ()
    needed = made if result else submit.inputs.all()
    gone = [ref.blob for ref in needed if blobs.exists(ref.blob) is None]
    if gone:
        log.warning("job %s needs %s, which is gone", submit.id, ", ".join(gone))
        return None
    return submit, result
