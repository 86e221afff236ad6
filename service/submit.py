"""From a request's files and options to a queued job, or to a refusal that leaves nothing behind.

In: an `Order` (checked options, the inputs, the idempotency key) and the uploads that are not in their place yet.
Out: the job's record. Refused: data that the options need and the order lacks, blobs of other owners, a device that
no live worker has, a full queue, an idempotency key that was used for another request.

The order of the steps is the promise: the uploads are held for the job, then put in their place, then the manifest is
on disk, then Redis knows the job, and only then the caller does. The bell comes last; if it is lost, the reaper rings
again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from schemas.errors import EspalierError
from schemas.job import BlobRef, JobInputs, SubmitManifest
from schemas.kinds import JobRequest
from service.context import Service
from state.blobs import BlobWriter, submit_key
from state.reaper import discard
from state.records import JobRecord

MAX_KEY_CHARS = 200


@dataclass(frozen=True)
class Order:
    owner: str
    options: JobRequest
    inputs: JobInputs
    idempotency_key: str | None
    uploads: Mapping[str, BlobWriter] = field(default_factory=dict)  # blob name -> its file, not yet in its place


def idempotency_key(header: str | None) -> str | None:
    """The Idempotency-Key header, if it is there and usable."""
    if header is None:
        return None
    if not (0 < len(header) <= MAX_KEY_CHARS and header.isascii() and header.isprintable()):
        raise EspalierError("idempotency_key_invalid", "it must have 1 to 200 printable ASCII characters")
    return header


def body_hash(options: JobRequest, inputs: JobInputs) -> str:
    """What makes two requests the same: the options and the content of the files, not what these are called."""
    asked = {
        "kind": options.kind,
        "options": options.model_dump(mode="json", by_alias=True),
        "model": inputs.model.blob,
        "external": {location: ref.blob for location, ref in sorted(inputs.external.items())},
        "calibration": inputs.calibration and inputs.calibration.blob,
        "evaluation": inputs.evaluation and inputs.evaluation.blob,
        "history": inputs.history and inputs.history.blob,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def owned_blob(service: Service, owner: str, blob: str, name: str) -> BlobRef:
    """A blob that a request names. Another owner's is as absent as one that never was."""
    size = service.blobs.exists(blob) if service.jobs.owns_blob(blob, owner) else None
    if size is None:
        raise EspalierError("blob_not_found", "you have no such blob", where=blob)
    return BlobRef(blob=blob, bytes=size, name=name)


def place(service: Service, order: Order) -> JobRecord:
    """Queue the order's job; or find the job that the same idempotency key led to before."""
    if order.options.needs_data() and order.inputs.calibration is None:
        raise EspalierError("calibration_required", order.options.why_data(), where="calibration")
    if order.options.needs_history() and order.inputs.history is None:
        raise EspalierError("history_required", order.options.why_history(), where="history")
    body_sha256 = body_hash(order.options, order.inputs)
    if order.idempotency_key is not None:
        known = service.jobs.repeat_of(order.owner, order.idempotency_key, body_sha256)
        if known is not None:
            return service.jobs.get(known, order.owner)
    manifest = SubmitManifest(
        id=service.new_id(),
        kind=order.options.kind,
        owner=order.owner,
        created_at=service.clock(),
        queue=_queue_for(service, order.options.device),
        options=order.options,
        inputs=order.inputs,
        idempotency_key=order.idempotency_key,
        body_sha256=body_sha256,
    )
    job_id = _submit(service, order, manifest)
    if job_id == manifest.id:
        service.ring(job_id, manifest.queue)
    return service.jobs.get(job_id, order.owner)


def _submit(service: Service, order: Order, manifest: SubmitManifest) -> str:
    """The steps that leave traces. What stops them takes back what they left, unless the job may exist: Redis may
    have queued it and lost its answer, and a queued job needs its files and its manifest."""
    settings = service.settings
    keep = False
    try:
        for blob, upload in order.uploads.items():
            service.jobs.hold_blob(blob, order.owner, manifest.id)
            upload.commit()
        service.blobs.put_document(submit_key(manifest.id), manifest.model_dump_json().encode())
        keep = True
        submitted = service.jobs.submit(
            manifest,
            max_queued=settings.max_queued_jobs,
            max_per_owner=settings.max_jobs_per_key,
            idempotency_seconds=settings.idempotency_seconds,
        )
        keep = submitted.created
        return submitted.job_id
    except EspalierError as error:
        keep = keep and error.code == "state_unavailable"
        raise
    finally:
        if not keep:
            _take_back(service, manifest.id)


def _take_back(service: Service, job_id: str) -> None:
    service.blobs.delete_documents(submit_key(job_id).rpartition("/")[0] + "/")
    discard(service.jobs, service.blobs, service.jobs.release_blobs(job_id))


def _queue_for(service: Service, device: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "gpu"]:
    """A job for a device that nobody serves would wait for ever; that is said now."""
    if device == "cpu":
        return "cpu"
    if any(worker.queue == "gpu" for worker in service.jobs.workers()):
        return "gpu"
    if device == "cuda":
        raise EspalierError("device_unavailable", "no worker with a GPU is alive", where="options.device")
    return "cpu"
