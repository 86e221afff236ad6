"""Manifests for tests, with made-up blobs: `sha("a")` is sha256:aaaa..."""

import re

import pytest

from schemas.errors import EspalierError
from schemas.job import BlobRef, JobInputs, JobResult, JobState, ResultManifest, SubmitManifest, Verdict
from schemas.request import PruneRequest

LIMITS = {"max_queued": 5, "max_per_owner": 3, "idempotency_seconds": 60}


def sha(digit: str) -> str:
    return "sha256:" + digit * 64


def ref(digit: str) -> BlobRef:
    return BlobRef(blob=sha(digit), bytes=1)


def result_of(*digits: str) -> JobResult:
    artifact, report_json, report_html, report_md = (ref(digit) for digit in digits)
    return JobResult(
        artifact=artifact,
        report_json=report_json,
        report_html=report_html,
        report_md=report_md,
        verdict=Verdict(met=True),
    )


def ending(job_id: str, attempt: int, state: JobState = JobState.SUCCEEDED, at: float = 7.0) -> ResultManifest:
    result = result_of("c", "d", "e", "f") if state is JobState.SUCCEEDED else None
    return ResultManifest(id=job_id, attempt=attempt, finished_at=at, state=state, result=result)


def submission(
    number: int, *, owner: str = "ann", model: str = "a", key: str | None = None, body: str = "b1", queue: str = "cpu"
) -> SubmitManifest:
    return SubmitManifest.model_validate(
        {
            "id": f"{number:032x}",
            "owner": owner,
            "created_at": 1000.0 + number,
            "queue": queue,
            "options": PruneRequest(),
            "inputs": JobInputs(model=ref(model)),
            "idempotency_key": key,
            "body_sha256": body,
        }
    )


def refused(code: str, where: str = "") -> "pytest.RaisesExc[EspalierError]":
    """The block raises this failure."""
    return pytest.raises(EspalierError, match=f"^{re.escape(code)}: {re.escape(where)}")
