"""POST /sweep and POST /compare: jobs of their own kinds, through the same door."""

import json

import pytest

from schemas.job import SubmitManifest
from schemas.sweep import CompareRequest, SweepRequest
from tests.service.conftest import Api
from tests.service.test_prune import put

SWEEP = {"base": {"criterion": {"name": "magnitude"}}, "over": {"amount.remove_units": [0.2, 0.5]}}
COMPARE = {"criteria": [{"name": "magnitude"}], "amounts": [{"remove_units": 0.5}]}
KINDS = [("sweep", SWEEP, SweepRequest), ("compare", COMPARE, CompareRequest)]


@pytest.mark.parametrize(("kind", "options", "request_type"), KINDS)
def test_a_form_becomes_a_job_of_its_kind(api: Api, kind: str, options: object, request_type: type) -> None:
    files = {"model": ("net.onnx", b"model"), "calibration": b"data", "evaluation": b"more"}
    answer = api.client.post(f"/{kind}", files=files, data={"options": json.dumps(options)})
    assert 202 == answer.status_code, answer.text
    job = api.client.get(answer.headers["Location"]).json()
    assert (kind, "queued", "net.onnx") == (job["kind"], job["state"], job["inputs"]["model"]["name"])
    manifest = SubmitManifest.model_validate_json((api.home / "jobs" / job["id"] / "submit.json").read_bytes())
    assert (kind, request_type) == (manifest.kind, type(manifest.options))
    assert isinstance(manifest.options, SweepRequest | CompareRequest)
    assert request_type.model_validate(options).plan == manifest.options.plan
    claim = api.service.jobs.claim(job["id"], "worker", lease_seconds=60)
    assert claim is not None
    assert manifest == claim.manifest


@pytest.mark.parametrize(("kind", "options", "request_type"), KINDS)
def test_json_names_blobs(api: Api, kind: str, options: object, request_type: type) -> None:
    body = {"model": {"blob": put(api, b"model")}, "evaluation": {"blob": put(api, b"more")}, "options": options}
    answer = api.client.post(f"/{kind}", json=body)
    assert (202, kind) == (answer.status_code, answer.json()["kind"])
    assert answer.json()["inputs"]["evaluation"] is not None


def test_a_key_makes_one_job(api: Api) -> None:
    def ask(kind: str, options: object) -> str:
        header = {"Idempotency-Key": "k"}
        sent = {"options": json.dumps(options)}
        answer = api.client.post(f"/{kind}", files={"model": b"m"}, data=sent, headers=header)
        return str(answer.json().get("id", answer.json().get("code")))

    first = ask("sweep", SWEEP)
    assert first == ask("sweep", SWEEP)
    assert "idempotency_key_reused" == ask("sweep", {**SWEEP, "repeat": 2})
    assert "idempotency_key_reused" == ask("compare", COMPARE)


@pytest.mark.parametrize(
    ("kind", "options", "code", "words"),
    [
        ("sweep", {}, "options_invalid", "either `over`"),
        ("sweep", {"over": {"criterion.angel_deg": [1]}}, "options_invalid", "did you mean 'angle_deg'"),
        ("sweep", {"over": {"criterion.angle_deg": [20]}}, "calibration_required", "distinctiveness"),
        ("compare", {"criteria": [{"name": "karnin", "of": "units"}]}, "history_required", "karnin"),
        ("compare", {"criteria": []}, "options_invalid", "at least one criterion"),
        ("sweep", {**SWEEP, "base": {"device": "cuda"}}, "device_unavailable", "GPU"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(api: Api, kind: str, options: object, code: str, words: str) -> None:
    calibration = {} if code == "calibration_required" else {"calibration": b"data"}
    answer = api.client.post(f"/{kind}", files={"model": b"m", **calibration}, data={"options": json.dumps(options)})
    assert code == answer.json()["code"], answer.text
    assert words in answer.json()["detail"]
    assert [] == api.files()


def test_the_examples_of_the_reference_are_valid(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    for kind, _, request_type in KINDS:
        content = document["paths"][f"/{kind}"]["post"]["requestBody"]["content"]
        assert request_type.model_validate(content["application/json"]["example"]["options"]).plan
        form = content["multipart/form-data"]["schema"]["properties"]
        assert {"model", "calibration", "evaluation", "history", "options"} == set(form)
