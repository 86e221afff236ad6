"""A job as HTTP shows it: the record from Redis plus links.

In: a `JobRecord` and the public address, if there is one. Out: a `Job` and its entity tag.
"""

import hashlib

from schemas.job import Job, JobLinks, JobState
from state.jobs import JobRecord


def job_of(record: JobRecord, public_url: str) -> Job:
    """The job with links, relative unless the service knows its public address."""
    manifest = record.manifest
    base = f"{public_url.rstrip('/')}/jobs/{manifest.id}"
    done = record.state is JobState.SUCCEEDED
    links = JobLinks(
        self=base,
        events=f"{base}/events",
        cancel=f"{base}/cancel",
        artifact=f"{base}/artifact" if done and record.result and record.result.artifact else None,
        artifacts=f"{base}/artifacts" if done else None,
        report=f"{base}/report" if done else None,
    )
    return Job(
        id=manifest.id,
        kind=manifest.kind,
        state=record.state,
        attempt=record.attempt,
        cancel_requested=record.cancel_requested,
        progress=record.progress,
        created_at=manifest.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        options=manifest.options,
        inputs=manifest.inputs,
        result=record.result,
        failure=record.failure,
        links=links,
    )


def etag_of(body: bytes) -> str:
    """The entity tag of a document is its hash."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'
