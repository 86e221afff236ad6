"""The jobs as Redis knows them: who asked, where each stands, whose turn it is.

In: manifests, owners, attempts. Out: frozen values. Refused: what belongs to another owner (`not_found`), what the
queue or the owner's share has no room for, and everything while Redis is unwell (`state_unavailable`). Every change is
one script of `state/transitions.py`. Methods that answer `Orphans` name blobs that nothing refers to any more; the
caller hands them to `state.reaper.discard`, which deletes the files.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from schemas.errors import EspalierError
from schemas.job import JobEvent, JobState, Progress, ResultManifest, SubmitManifest
from state import transitions
from state.records import (
    QUEUES,
    Claim,
    JobRecord,
    Orphans,
    Queue,
    Reaped,
    StateCounts,
    Submitted,
    WorkerInfo,
    closed,
    entries,
    event,
    record,
)

__all__ = [
    "QUEUES",
    "Claim",
    "JobRecord",
    "JobStore",
    "Orphans",
    "Queue",
    "Reaped",
    "StateCounts",
    "Submitted",
    "WorkerInfo",
    "connect",
]

# Blobs that a submit gathered and never used (the process died in between) are kept for this long.
HOLD_SECONDS = 86400.0
# One blocking read is shorter than the socket's timeout, which must stay short.
SOCKET_SECONDS = 5.0
BLOCK_MS = 2000

CURSOR = re.compile(r"[0-9a-f]{32}")
STREAM_ID = re.compile(r"\d{1,20}(-\d{1,20})?")


def connect(url: str) -> "redis.Redis":
    """A client with short timeouts. It never repeats a command by itself: not every move may be made twice."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=2.0,
        health_check_interval=0,
        retry=Retry(NoBackoff(), 0),
    )


@contextmanager
def _spoken() -> Iterator[None]:
    """Whatever goes wrong between us and Redis is one failure: the state is unavailable."""
    try:
        yield
    except redis.RedisError as error:
        raise unwell(error) from error


def unwell(error: redis.RedisError | OSError) -> EspalierError:
    """The failure as callers see it. Whoever cannot reach Redis is told its address by the error; our log is, nobody
    else."""
    shown = f"Redis: {error}" if isinstance(error, redis.ResponseError) else f"Redis: {type(error).__name__}"
    failure = EspalierError("state_unavailable", shown)
    failure.args = (f"state_unavailable: Redis: {type(error).__name__}: {error}",)
    return failure


class JobStore:
    """The one door to the jobs in Redis. Safe to share between threads."""

    def __init__(self, client: "redis.Redis") -> None:
        self.redis = client
        self._scripts = {name: client.register_script(text) for name, text in transitions.SCRIPTS.items()}

    def _call(self, name: str, *arguments: str | int | float) -> Any:
        with _spoken():
            return self._scripts[name](args=list(arguments))

    def _fields(self, job_id: str) -> dict[str, str]:
        with _spoken():
            return cast(dict[str, str], self.redis.hgetall(f"job:{job_id}"))

    # ---- the service's side

    def submit(
        self, manifest: SubmitManifest, *, max_queued: int, max_per_owner: int, idempotency_seconds: int
    ) -> Submitted:
        """Queue a job. Its blobs must belong to its owner, or be held for it with `hold_blob`."""
        blobs = sorted({ref.blob for ref in manifest.inputs.all()})
        limits = (max_queued, max_per_owner, idempotency_seconds)
        said, what = self._call("SUBMIT", *_identity(manifest), *limits, *blobs)
        match said:
            case "created" | "same":
                return Submitted(what, said == "created")
            case "full":
                raise EspalierError("queue_full", f"{max_queued} jobs are waiting already")
            case "many":
                raise EspalierError("too_many_jobs", f"this key has {max_per_owner} unfinished jobs already")
            case "blob":
                raise EspalierError("blob_not_found", "it is not there (any more)", where=what)
        raise _reused(what)

    def repeat_of(self, owner: str, idempotency_key: str, body_sha256: str) -> str | None:
        """The job that this key led to before, or None."""
        said = self._call("REPEAT_OF", _idem(owner, idempotency_key), body_sha256)
        if said and said[0] == "other":
            raise _reused(said[1])
        return str(said[1]) if said else None

    def get(self, job_id: str, owner: str) -> JobRecord:
        """One job of its owner."""
        fields = self._fields(job_id)
        if not fields or fields["owner"] != owner:
            raise EspalierError("not_found", "there is no such job", where=job_id)
        return record(fields)

    def page(self, owner: str, *, limit: int, cursor: str | None) -> tuple[list[JobRecord], str | None]:
        """The owner's jobs, newest first, older than `cursor`; and the cursor of the next page."""
        if cursor is not None and not CURSOR.fullmatch(cursor):
            raise EspalierError("cursor_invalid", "a cursor has 32 hex digits", where="cursor")
        with _spoken():
            top = f"({cursor}" if cursor else "+"
            found_ids = self.redis.zrevrangebylex(f"jobs:owner:{owner}", top, "-", start=0, num=limit + 1)
            ids = cast(list[str], found_ids)
            pipe = self.redis.pipeline(transaction=False)
            for job_id in ids[:limit]:
                pipe.hgetall(f"job:{job_id}")
            found = pipe.execute()
        records = [record(fields) for fields in found if fields]
        return records, ids[limit - 1] if len(ids) > limit else None

    def cancel(self, job_id: str, owner: str) -> tuple[JobRecord, Orphans]:
        """Cancel at once what is queued, ask the worker of what is running, leave alone what has finished."""
        self.get(job_id, owner)
        _, orphans = self._call("CANCEL", job_id, _failure("cancelled", "cancelled before a worker started it"))
        return self.get(job_id, owner), Orphans(tuple(orphans))

    def delete(self, job_id: str, owner: str) -> Orphans:
        """Forget a job and its results. A queued job is cancelled first, a running one refused."""
        self.get(job_id, owner)
        state, orphans = self._call("DELETE", job_id)
        if state == JobState.RUNNING:
            raise EspalierError("job_still_running", "it is running", where=job_id)
        return Orphans(tuple(orphans))

    def events_after(self, job_id: str, last_id: str, *, block_ms: int) -> list[JobEvent]:
        """The events after `last_id` ("0": from the beginning), waiting for the first one up to `block_ms`."""
        if not STREAM_ID.fullmatch(last_id):
            raise EspalierError("request_invalid", "that is not the id of an event", where="Last-Event-ID")
        until = time.monotonic() + block_ms / 1000
        while True:
            left = int((until - time.monotonic()) * 1000)
            block = min(left, BLOCK_MS) if left > 0 else None
            with _spoken():
                said = self.redis.xread({f"events:{job_id}": last_id}, count=500, block=block)
            if said:
                return [event(event_id, fields) for event_id, fields in entries(said)]
            if block is None:
                return []

    # ---- blobs: who needs them

    def add_blob(self, sha: str, owner: str) -> None:
        """`owner` has uploaded this blob and keeps it. Call it before the file is put in its place."""
        self._refer(sha, f"put:{owner}", owner, "")

    def owns_blob(self, sha: str, owner: str) -> bool:
        """Whether the owner uploaded it, or has a job that reads or made it."""
        return bool(self._call("OWNS", sha, owner))

    def drop_blob(self, sha: str, owner: str) -> Orphans:
        """The owner no longer keeps this upload; jobs that need it still do."""
        return Orphans(tuple(self._call("UNREFER", sha, f"put:{owner}")))

    def hold_blob(self, sha: str, owner: str, job_id: str) -> bool:
        """Keep a blob until this job ends. Works before the job is submitted; False where it has ended already."""
        return self._refer(sha, f"in:{job_id}", owner, job_id)

    def release_blobs(self, job_id: str) -> Orphans:
        """Let go what was held for a job that was then not submitted."""
        return Orphans(tuple(self._call("RELEASE", job_id)))

    def done_discarding(self, sha: str) -> None:
        """The file of an orphan is gone: others may refer to that content again."""
        with _spoken():
            self.redis.delete(f"doomed:{sha}")

    def _refer(self, sha: str, field: str, owner: str, job_id: str) -> bool:
        """A blob whose file is being deleted is waited for: the mark lasts a few seconds at most."""
        while True:
            said = self._call("REFER", sha, field, owner, job_id)
            if said != "doomed":
                return bool(said == "held")
            time.sleep(0.01)

    # ---- the worker's side

    def claim(self, job_id: str, worker: str, *, lease_seconds: float) -> Claim | None:
        """Take a queued job; None where it is not queued (any more)."""
        said = self._call("CLAIM", job_id, worker, lease_seconds)
        return Claim(SubmitManifest.model_validate_json(said[0]), int(said[1])) if said else None

    def renew(
        self, job_id: str, attempt: int, *, lease_seconds: float, progress: Progress | None
    ) -> Literal["held", "cancel", "lost"]:
        """Keep the job, report where it stands, and hear whether to go on."""
        told = progress.model_dump_json() if progress else ""
        said: Literal["held", "cancel", "lost"] = self._call("RENEW", job_id, attempt, lease_seconds, told)
        return said

    def finish(self, manifest: ResultManifest) -> tuple[bool, Orphans]:
        """End a job. False where the attempt is no longer the job's: then nothing has changed."""
        made = sorted({ref.blob for ref in manifest.result.all()}) if manifest.result else []
        said, orphans = self._call("FINISH", manifest.id, manifest.attempt, *_ending(manifest), *made)
        return bool(said), Orphans(tuple(orphans))

    def beat(self, worker: WorkerInfo, ttl_seconds: float) -> None:
        """A worker is alive for another `ttl_seconds`."""
        with _spoken():
            pipe = self.redis.pipeline()
            pipe.set(f"worker:{worker.name}", worker.model_dump_json(), px=int(ttl_seconds * 1000))
            pipe.sadd("workers", worker.name)
            pipe.execute()

    def gone(self, worker_name: str) -> None:
        """A worker says goodbye."""
        with _spoken():
            self.redis.delete(f"worker:{worker_name}")

    def workers(self) -> list[WorkerInfo]:
        """The workers whose heart still beats."""
        with _spoken():
            names = sorted(cast(set[str], self.redis.smembers("workers")))
            found = self.redis.mget([f"worker:{name}" for name in names]) if names else []
            silent = [name for name, text in zip(names, found, strict=True) if text is None]
            if silent:
                self.redis.srem("workers", *silent)
        return [WorkerInfo.model_validate_json(text) for text in found if text is not None]

    # ---- housekeeping

    def reap(self, *, max_attempts: int, ring_after_seconds: float) -> Reaped:
        """Take jobs back from silent workers, close those that were lost too often, find bells that nobody heard."""
        lost = _failure("worker_lost", f"its worker died or fell silent {max_attempts} times")
        cancelled = _failure("cancelled", "cancelled; its worker fell silent")
        ring, ended, orphans = self._call("REAP", max_attempts, ring_after_seconds, lost, cancelled, HOLD_SECONDS)
        fields = [self._fields(job_id) for job_id in ended]
        return Reaped(
            ring=tuple(zip(ring[::2], ring[1::2], strict=True)),
            closed=tuple(closed(one) for one in fields if one),
            orphans=Orphans(tuple(orphans)),
        )

    def restore(
        self, submit: SubmitManifest, result: ResultManifest | None, *, idempotency_seconds: float = 0.0
    ) -> bool:
        """Put a job back from its manifests, unless Redis knows it. `idempotency_seconds`: what is left of them."""
        inputs = sorted({ref.blob for ref in submit.inputs.all()})
        made = sorted({ref.blob for ref in result.result.all()}) if result and result.result else []
        state, finished_at, outcome, failure = _ending(result) if result else (JobState.QUEUED.value, "", "", "")
        attempt = result.attempt if result else 0
        arguments: list[str | int] = [*_identity(submit), int(idempotency_seconds), state, attempt, finished_at]
        arguments += [outcome, failure, len(inputs), *inputs, *made]
        return bool(self._call("RESTORE", *arguments))

    def counts(self) -> StateCounts:
        """The numbers behind /metrics."""
        with _spoken():
            pipe = self.redis.pipeline()
            for queue in QUEUES:
                pipe.zcard(f"jobs:queued:{queue}")
            pipe.zcard("jobs:running")
            pipe.hgetall("counters")
            *queued, running, counters = pipe.execute()
        return StateCounts(
            queued=dict(zip(QUEUES, queued, strict=True)),
            running=running,
            finished={state: int(counters.get(f"finished:{state}", 0)) for state in JobState if state.finished},
            submitted=int(counters.get("submitted", 0)),
            restarted=int(counters.get("restarted", 0)),
        )

    def ping(self) -> None:
        """Raises `state_unavailable` where Redis does not answer or refuses to write."""
        with _spoken():
            self.redis.set("ping", "1", px=1000)


def _idem(owner: str, key: str) -> str:
    return f"idem:{len(owner)}:{owner}:{key}"


def _reused(job_id: str) -> EspalierError:
    detail = f"job {job_id} was submitted under this key with another body"
    return EspalierError("idempotency_key_reused", detail, where="Idempotency-Key")


def _identity(manifest: SubmitManifest) -> tuple[str, ...]:
    """The first seven arguments of SUBMIT and RESTORE."""
    idem = _idem(manifest.owner, manifest.idempotency_key) if manifest.idempotency_key else ""
    text = manifest.model_dump_json(by_alias=True)
    created = f"{manifest.created_at:.6f}"
    return (manifest.id, text, manifest.owner, manifest.queue, created, idem, manifest.body_sha256)


def _ending(manifest: ResultManifest) -> tuple[str, str, str, str]:
    """State, time, result and failure as the scripts take them."""
    result = manifest.result.model_dump_json() if manifest.result else ""
    failure = manifest.failure.model_dump_json() if manifest.failure else ""
    return (manifest.state.value, f"{manifest.finished_at:.6f}", result, failure)


def _failure(code: str, detail: str) -> str:
    return EspalierError(code, detail).failure.model_dump_json()
