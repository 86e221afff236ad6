"""The values that come out of `state/jobs.py`, and how they are read from what Redis holds.

In: the fields of a job's hash, the entries of its stream. Out: frozen values. Refused: nothing; what a script wrote is
valid by construction.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from schemas.errors import Failure
from schemas.job import JobEvent, JobResult, JobState, Progress, ResultManifest, SubmitManifest

Queue = Literal["cpu", "gpu"]
STREAM_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
QUEUES: tuple[Queue, ...] = ("cpu", "gpu")


@dataclass(frozen=True)
class Submitted:
    """`created` is False where an idempotency key led to a job that exists already."""

    job_id: str
    created: bool


@dataclass(frozen=True)
class JobRecord:
    """A job without the links that the service adds."""

    manifest: SubmitManifest
    state: JobState
    attempt: int
    cancel_requested: bool
    progress: Progress
    started_at: float | None
    finished_at: float | None
    result: JobResult | None
    failure: Failure | None


@dataclass(frozen=True)
class Claim:
    """The right to run a job, as long as the lease is renewed under this attempt number."""

    manifest: SubmitManifest
    attempt: int


@dataclass(frozen=True)
class Orphans:
    """Blobs (`sha256:...`) that nothing refers to any more: their files can go."""

    blobs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reaped:
    """What the reaper found: bells to ring and jobs that it closed."""

    ring: tuple[tuple[str, Queue], ...]
    closed: tuple[ResultManifest, ...]
    orphans: Orphans


@dataclass(frozen=True)
class StateCounts:
    """Numbers for /metrics. `finished` counts since Redis was set up, not only the jobs that are still there."""

    queued: Mapping[str, int]
    running: int
    finished: Mapping[JobState, int]
    submitted: int
    restarted: int


class WorkerInfo(BaseModel):
    """What a worker says of itself with each heartbeat."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    queue: Queue
    sandbox_level: Literal["full", "partial", "off"]
    sandbox_missing: tuple[str, ...] = ()
    pid: int
    host: str
    started_at: float


def _moment(fields: Mapping[str, str], name: str) -> float | None:
    return float(fields[name]) if name in fields else None


def record(fields: Mapping[str, str]) -> JobRecord:
    """A job from its hash."""
    return JobRecord(
        manifest=SubmitManifest.model_validate_json(fields["submit"]),
        state=JobState(fields["state"]),
        attempt=int(fields["attempt"]),
        cancel_requested="cancel" in fields,
        progress=Progress.model_validate_json(fields["progress"]) if "progress" in fields else Progress(),
        started_at=_moment(fields, "started_at"),
        finished_at=_moment(fields, "finished_at"),
        result=JobResult.model_validate_json(fields["result"]) if "result" in fields else None,
        failure=Failure.model_validate_json(fields["failure"]) if "failure" in fields else None,
    )


def closed(fields: Mapping[str, str]) -> ResultManifest:
    """The result manifest of a job that ended without a worker."""
    job = record(fields)
    return ResultManifest(
        id=job.manifest.id,
        attempt=job.attempt,
        finished_at=job.finished_at or 0.0,
        state=job.state,
        failure=job.failure,
    )


def entries(said: Any) -> Sequence[tuple[str, Mapping[str, str]]]:
    """XREAD answers a list of (stream, entries) under RESP2 and a mapping under RESP3."""
    if isinstance(said, Mapping):
        (batches,) = said.values()
        return [entry for batch in batches for entry in batch]
    return said[0][1]  # type: ignore[no-any-return]  # one stream was asked for


def is_event_id(text: str) -> bool:
    """Whether Redis would take it for an entry's id: two numbers of 64 bits."""
    return STREAM_ID.fullmatch(text) is not None and all(int(part) < 2**64 for part in text.split("-"))


def event(event_id: str, fields: Mapping[str, str]) -> JobEvent:
    """One entry of a job's stream."""
    progress = fields.get("progress")
    return JobEvent(
        id=event_id,
        type="progress" if progress else "state",
        state=JobState(fields["state"]) if "state" in fields else None,
        attempt=int(fields["attempt"]),
        progress=Progress.model_validate_json(progress) if progress else None,
        at=float(fields["at"]),
    )
