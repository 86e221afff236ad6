"""POST /inspect: a job of its own kind, through the same door."""

import json

import pytest

from schemas.inspect_request import InspectRequest
from schemas.job import BlobRef, JobResult, JobState, ResultManifest, SubmitManifest, Verdict
from schemas.request import PruneRequest
from tests.service.conftest import REPORTS, Api
from tests.service.test_prune import name_of, put


def ask(api: Api, options: str = "{}") -> str:
    answer = api.client.post("/inspect", files={"model": ("net.onnx", b"model")}, data={"options": options})
    assert 202 == answer.status_code, answer.text
    return str(answer.json()["id"])


def test_a_model_alone_becomes_an_inspection(api: Api) -> None:
    job_id = ask(api, json.dumps({"scope": {"exclude": ["head"]}}))
    job = api.client.get(f"/jobs/{job_id}").json()
    assert ("inspect", "queued", ["head"]) == (job["kind"], job["state"], job["options"]["scope"]["exclude"])
    assert {"scope", "preprocess", "sample_axes", "lossy", "device"} == set(job["options"])
    kept = (api.home / "jobs" / job_id / "submit.json").read_text()
    manifest = SubmitManifest.model_validate_json(kept)
    assert ("inspect", InspectRequest) == (manifest.kind, type(manifest.options))
    claim = api.service.jobs.claim(job_id, "worker", lease_seconds=60)
    assert claim is not None
    assert manifest == claim.manifest


def test_json_names_blobs(api: Api) -> None:
    body = {"model": {"blob": put(api, b"model")}, "calibration": {"blob": put(api, b"data")}}
    job = api.client.post("/inspect", json=body).json()
    assert ("inspect", name_of(b"data")) == (job["kind"], job["inputs"]["calibration"]["blob"])


def test_what_has_no_use_is_refused(api: Api) -> None:
    form = api.client.post("/inspect", files={"model": b"m", "evaluation": b"e"})
    assert (400, "body_invalid", "evaluation") == (form.status_code, form.json()["code"], form.json()["where"])
    blob = put(api, b"m")
    body = api.client.post("/inspect", json={"model": {"blob": blob}, "evaluation": {"blob": blob}})
    assert (422, "request_invalid") == (body.status_code, body.json()["code"])
    options = api.client.post(
        "/inspect", json={"model": {"blob": blob}, "options": {"criterion": {"name": "magnitude"}}}
    )
    assert (422, "options_invalid") == (options.status_code, options.json()["code"])


def test_the_same_key_for_another_kind_is_another_request(api: Api) -> None:
    header = {"Idempotency-Key": "k"}
    options = {"options": json.dumps({"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}})}
    first = api.client.post("/inspect", files={"model": b"m"}, headers=header)
    again = api.client.post("/inspect", files={"model": b"m"}, headers=header)
    assert first.json()["id"] == again.json()["id"]
    other = api.client.post("/prune", files={"model": b"m"}, data=options, headers=header)
    assert "idempotency_key_reused" == other.json()["code"]


def test_the_report_is_the_inspection_and_there_is_no_artifact(api: Api) -> None:
    job_id = ask(api)
    claim = api.service.jobs.claim(job_id, "worker", lease_seconds=60)
    assert claim is not None
    kept = {}
    for name, content in REPORTS.items():
        with api.service.blobs.writer() as writer:
            writer.write(content)
            blob, size = writer.commit()
        kept[f"report_{name}"] = BlobRef(blob=blob, bytes=size)
    result = JobResult(artifact=None, verdict=Verdict(met=True), **kept)
    done = ResultManifest(id=job_id, attempt=1, finished_at=1.0, state=JobState.SUCCEEDED, result=result)
    assert api.service.jobs.finish(done)[0]
    job = api.client.get(f"/jobs/{job_id}").json()
    assert (None, f"/jobs/{job_id}/report") == (job["links"]["artifact"], job["links"]["report"])
    for suffix, content in REPORTS.items():
        assert content == api.client.get(f"/jobs/{job_id}/report.{suffix}").content
    missing = api.client.get(f"/jobs/{job_id}/artifact")
    assert (409, "job_has_no_result") == (missing.status_code, missing.json()["code"])


def test_options_of_one_kind_are_not_those_of_the_other() -> None:
    fields = {"id": "0" * 32, "owner": "o", "created_at": 0.0, "queue": "cpu", "body_sha256": ""}
    inputs = {"model": {"blob": name_of(b"m"), "bytes": 1}}
    for kind, wrong in (("prune", InspectRequest()), ("inspect", PruneRequest())):
        with pytest.raises(ValueError, match="options of kind"):
            SubmitManifest.model_validate({**fields, "kind": kind, "options": wrong, "inputs": inputs})
    old = SubmitManifest.model_validate({**fields, "options": {}, "inputs": inputs})
    assert isinstance(old.options, PruneRequest)
