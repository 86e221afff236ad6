"""What is left behind when the steps of a submit break off."""

import hashlib
from pathlib import Path

import pytest

from schemas.errors import EspalierError
from schemas.job import BlobRef, JobInputs
from schemas.request import parse_options
from service.app import listening_client
from service.context import Service, new_job_id
from service.events import Feed
from service.metrics import Metrics
from service.submit import Order, place
from state.blobs import open_blobs, submit_key
from state.jobs import JobStore, connect
from state.records import Submitted
from state.settings import Settings

MODEL = b"a model"
NAME = f"sha256:{hashlib.sha256(MODEL).hexdigest()}"
JOB = new_job_id()


class LosesTheAnswer(JobStore):
    """Redis takes the job, and the connection breaks before its answer."""

    def submit(self, *given: object, **more: object) -> Submitted:
        super().submit(*given, **more)  # type: ignore[arg-type]
        raise EspalierError("state_unavailable", "the connection broke")


class Refuses(JobStore):
    def submit(self, *_: object, **__: object) -> Submitted:
        raise EspalierError("queue_full", "1,000 jobs wait")


def service_with(kind: type[JobStore], url: str, home: Path) -> Service:
    settings = Settings(redis_url=url, home=home)
    jobs = kind(connect(url))
    return Service(
        settings,
        jobs,
        open_blobs(settings),
        Feed(listening_client(url)),
        lambda *_: True,
        Metrics(jobs.counts),
        lambda: 1.0,
        lambda: JOB,
    )


def order(service: Service) -> Order:
    upload = service.blobs.writer()
    upload.write(MODEL)
    options = parse_options({"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}})
    inputs = JobInputs(model=BlobRef(blob=NAME, bytes=len(MODEL)))
    return Order("local", options, inputs, None, {NAME: upload})


def test_a_job_that_redis_may_have_taken_keeps_its_files_and_its_manifest(redis_url: str, tmp_path: Path) -> None:
    service = service_with(LosesTheAnswer, redis_url, tmp_path)
    with pytest.raises(EspalierError, match="state_unavailable"):
        place(service, order(service))
    assert service.blobs.get_document(submit_key(JOB)) is not None
    assert len(MODEL) == service.blobs.exists(NAME)
    claim = service.jobs.claim(JOB, "worker", lease_seconds=5)
    assert claim is not None
    assert JOB == claim.manifest.id


def test_a_refused_job_leaves_nothing(redis_url: str, tmp_path: Path) -> None:
    service = service_with(Refuses, redis_url, tmp_path)
    with pytest.raises(EspalierError, match="queue_full"):
        place(service, order(service))
    assert service.blobs.get_document(submit_key(JOB)) is None
    assert service.blobs.exists(NAME) is None
