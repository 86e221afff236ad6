"""One attempt at one job: from the claim to the result in its place, or to a failure with a name.

In: a claim and the `Workplace`. Out: nothing but effects: the blobs, a result manifest, the job's state. Refused: what
the engine refuses, limits that are broken, results that do not hold; each ends the job as failed. An attempt that has
lost its job, or whose launcher died under it, ends without a word: the job is somebody else's, or will be tried again.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from schemas.errors import EspalierError, Failure
from schemas.files import is_weights
from schemas.job import BlobRef, JobState, ResultManifest, SubmitManifest
from schemas.request import PruneRequest
from state.blobs import BlobStore, result_key
from state.jobs import Claim, JobStore
from state.reaper import discard
from state.settings import Settings
from worker.children import Ending, Launcher, resident_bytes
from worker.engine.embedded import toolchain
from worker.harvest import Harvest, harvest
from worker.lease import Lease
from worker.orders import Bounds, Order, Source, Sources, Toolbox
from worker.workspace import workspace

MEBI = 1024 * 1024
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
# A disk that stays full is the end of the job; Redis is waited for as long as it takes.
STORAGE_PATIENCE_SECONDS = 60.0

# The compiled check is worth no more of a job's time than this.
COMPILE_SECONDS = 600.0

T = TypeVar("T")
Guard = Callable[[int], str | None]  # why a process must stop

log = logging.getLogger(__name__)


class Abandoned(Exception):
    """The job is no longer this attempt's to end."""


@dataclass(frozen=True)
class Workplace:
    """What an attempt works with. `pause` sleeps; `clock` tells the time since the epoch."""

    settings: Settings
    store: JobStore
    blobs: BlobStore
    launcher: Launcher
    clock: Callable[[], float] = time.time
    pause: Callable[[float], None] = time.sleep


def attempt(claim: Claim, place: Workplace) -> None:
    """Run a claimed job to its end. Raises `LauncherDied` where the launcher went down with it."""
    lease = Lease(place.store, claim, lease_seconds=place.settings.lease_seconds)
    lease.start()
    try:
        with workspace(place.settings.home, f"{claim.manifest.id}-{claim.attempt}") as folder:
            _end(claim, place, lease, _outcome(claim, place, lease, folder))
    except Abandoned as reason:
        log.warning("job %s, attempt %d is left: %s", claim.manifest.id, claim.attempt, reason)
    finally:
        lease.stop()


def give_up(claim: Claim, place: Workplace, failure: Failure) -> None:
    """End a job for a reason that lies with the worker."""
    manifest = ResultManifest(
        id=claim.manifest.id,
        attempt=claim.attempt,
        finished_at=place.clock(),
        state=JobState.FAILED,
        failure=failure,
    )
    try:
        _commit(place, manifest)
    except Abandoned as reason:
        log.warning("job %s, attempt %d is left: %s", manifest.id, manifest.attempt, reason)


# ---- running


def _outcome(claim: Claim, place: Workplace, lease: Lease, folder: Path) -> Harvest | Failure:
    """The checked results of the job, whose files are stored, or why there are none."""
    try:
        sources = _materialise(claim.manifest, place.blobs, folder)
        gathered = _run(claim.manifest, place, lease, folder, sources)
        if lease.settle() == "lost":
            raise Abandoned("another attempt has the job")
        _keep(claim.manifest, place, gathered)
    except EspalierError as error:
        return error.failure
    return gathered


def _materialise(manifest: SubmitManifest, blobs: BlobStore, folder: Path) -> Sources:
    """The inputs as files."""
    fetched = folder / "inputs"
    fetched.mkdir()

    def source(ref: BlobRef) -> Source:
        path = blobs.local_path(ref.blob, fetched)
        return Source(path=path, sha256=ref.blob.removeprefix("sha256:"), name=ref.name, bytes=ref.bytes)

    inputs = manifest.inputs
    return Sources(
        model=source(inputs.model),
        external={location: source(ref) for location, ref in inputs.external.items()},
        calibration=source(inputs.calibration) if inputs.calibration else None,
        evaluation=source(inputs.evaluation) if inputs.evaluation else None,
        history=source(inputs.history) if inputs.history else None,
    )


def _run(manifest: SubmitManifest, place: Workplace, lease: Lease, folder: Path, sources: Sources) -> Harvest:
    """The job in one confined child, the verification of each model that it made in another."""
    bounds = bounds_of(place.settings, sources)
    work, verify = folder / "work", folder / "verify"
    work.mkdir()
    verify.mkdir()
    order = Order(kind=manifest.kind, workdir=work, bounds=bounds, request=manifest.options, sources=sources)
    guard = _guard(place, lease)
    _demand(place.launcher.run(order, folder / "order.json", guard, lease.report), manifest.id)
    if isinstance(manifest.options, PruneRequest) and manifest.options.verify_on is not None:
        _compile(manifest.id, place, lease, folder, bounds, guard)
        guard = _guard(place, lease)  # what the check took is not taken from the verification
    gathered = harvest(work, manifest.kind, model_name=manifest.inputs.model.name, most_bytes=bounds.file_bytes)
    weights = tuple(path for name, path in gathered.files.items() if is_weights(name))
    for model in (path for path in gathered.files.values() if path.suffix == ".onnx"):
        check = Order(kind="verify", workdir=verify, bounds=bounds, artifact=model, beside=weights)
        _demand(place.launcher.run(check, folder / "verify.json", guard, lambda _: None), manifest.id)
    return gathered


def _compile(job_id: str, place: Workplace, lease: Lease, folder: Path, bounds: Bounds, guard: Guard) -> None:
    """The compiled check, in a child that may start the toolchain. Only a cancelled or lost job ends here; whatever
    else goes wrong, the report says already that the check did not finish."""
    try:
        tools = toolchain.find()
        box = Toolbox(programs=tools.programs, folders=tools.folders)
    except EspalierError:  # the child comes to the same result, and writes it into the report
        box = Toolbox()
    order = Order(kind="compile", workdir=folder / "work", bounds=bounds, tools=box)
    until = time.monotonic() + COMPILE_SECONDS
    ending = place.launcher.run(
        order,
        folder / "compile.json",
        lambda pid: guard(pid) or ("wall" if time.monotonic() > until else None),
        lease.report,
    )
    if ending.stopped in ("lost", "cancel"):
        _demand(ending, job_id)
    elif not ending.done:
        log.info("job %s: its compiled check did not end: %s; %s", job_id, ending, ending.log_tail[-2000:])


def bounds_of(settings: Settings, sources: Sources | None) -> Bounds:
    """The limits of one child: the settings', and files no larger than its inputs explain."""
    models = [sources.model, *sources.external.values()] if sources else []
    largest = max(2 * sum(source.bytes for source in models) + 256 * MEBI, settings.max_data_bytes)
    cuda = settings.device == "cuda"
    return Bounds(
        threads=settings.job_threads or len(os.sched_getaffinity(0)),
        cpu_seconds=max(int(settings.job_cpu_seconds), 1),
        memory_bytes=None if cuda else settings.job_memory_bytes,
        file_bytes=largest,
        data_bytes=settings.max_data_bytes,
        sandbox=settings.sandbox,
        cuda=cuda,
        torchscript=settings.torchscript,
    )


def _guard(place: Workplace, lease: Lease) -> Guard:
    """Why a child must stop, asked several times a second. The children that share it share one time limit."""
    until = time.monotonic() + place.settings.job_wall_seconds

    def guard(pid: int) -> str | None:
        if lease.verdict is not None:
            return lease.verdict
        if time.monotonic() > until:
            return "wall"
        return "memory" if resident_bytes(pid) > place.settings.job_memory_bytes else None

    return guard


STOPPED = {
    "cancel": ("cancelled", "its owner cancelled it while it ran"),
    "wall": ("job_timeout", "it ran for longer than ESPALIER_JOB_WALL_SECONDS allows"),
    "memory": ("job_out_of_memory", "it held more memory than ESPALIER_JOB_MEMORY_BYTES allows"),
}


def _demand(ending: Ending, job_id: str) -> None:
    """The child is done, or this raises what became of it."""
    if ending.stopped == "lost":
        raise Abandoned("another attempt has the job")
    if ending.done and ending.stopped is None:
        return
    log.info("job %s: %s; the end of its output: %s", job_id, ending, ending.log_tail[-2000:])
    if ending.stopped in STOPPED:
        raise EspalierError(*STOPPED[ending.stopped])
    if ending.failure is not None:
        raise EspalierError.of(ending.failure)
    if ending.signal is not None:
        raise _killed(ending)
    raise EspalierError("job_crashed", f"its process ended without a result (exit code {ending.exit_code})")


def _killed(ending: Ending) -> EspalierError:
    assert ending.signal is not None
    name = ending.signal.name
    if name == "SIGXCPU":
        return EspalierError("job_timeout", "it used more CPU time than ESPALIER_JOB_CPU_SECONDS allows")
    if "bad_alloc" in ending.log_tail:
        return EspalierError("job_out_of_memory", f"an allocation failed, and it died of {name}")
    if name == "SIGKILL":
        return EspalierError("job_crashed", "its process was killed from outside; the machine may be out of memory")
    return EspalierError("job_crashed", f"its process died of {name}")


# ---- ending


def _keep(manifest: SubmitManifest, place: Workplace, gathered: Harvest) -> None:
    """Store the results. The references come first, so that nobody deletes the same content as an orphan meanwhile."""
    for ref, path in zip(gathered.result.all(), gathered.files.values(), strict=True):
        if not _persist(place, partial(place.store.hold_blob, ref.blob, manifest.owner, manifest.id)):
            raise Abandoned("the job has ended")
        stored = _persist(place, partial(place.blobs.put_file, path))
        if stored != (ref.blob, ref.bytes):
            raise EspalierError("artifact_rejected", "it changed while it was stored", where=path.name)


def _end(claim: Claim, place: Workplace, lease: Lease, outcome: Harvest | Failure) -> None:
    """Write the result manifest, then tell Redis."""
    failure = outcome if isinstance(outcome, Failure) else None
    if failure is None:
        state = JobState.SUCCEEDED
    else:
        state = JobState.CANCELLED if failure.code == "cancelled" else JobState.FAILED
    manifest = ResultManifest(
        id=claim.manifest.id,
        attempt=claim.attempt,
        finished_at=place.clock(),
        state=state,
        result=outcome.result if isinstance(outcome, Harvest) else None,
        failure=failure,
    )
    if lease.settle() == "lost":
        raise Abandoned("another attempt has the job")
    _commit(place, manifest)


def _commit(place: Workplace, manifest: ResultManifest) -> None:
    text = manifest.model_dump_json().encode()
    try:
        _persist(place, partial(place.blobs.put_document, result_key(manifest.id), text))
    except EspalierError as error:
        # A success that would be lost with Redis is none.
        manifest = manifest.model_copy(update={"state": JobState.FAILED, "result": None, "failure": error.failure})
    accepted, orphans = _persist(place, partial(place.store.finish, manifest))
    discard(place.store, place.blobs, orphans)
    if not accepted:
        raise Abandoned("its result was refused")
    log.info("job %s, attempt %d: %s", manifest.id, manifest.attempt, manifest.state)


def _persist(place: Workplace, act: Callable[[], T]) -> T:
    """Do it, again and again while Redis is away, and for a while if the storage is."""
    pause, waited = FIRST_PAUSE, 0.0
    while True:
        try:
            return act()
        except EspalierError as error:
            patient = error.code == "state_unavailable" or waited < STORAGE_PATIENCE_SECONDS
            if error.code not in ("state_unavailable", "storage_unavailable") or not patient:
                raise
            log.warning("waiting %.1f s: %s", pause, error)
        place.pause(pause)
        waited += pause
        pause = min(2 * pause, LONGEST_PAUSE)
