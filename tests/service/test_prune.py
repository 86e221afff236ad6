"""POST /prune: both bodies, what is on disk when, idempotency, limits, queues."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from schemas.job import SubmitManifest
from state.records import WorkerInfo
from tests.service.conftest import Api

Serve = Callable[..., Api]


KEY = {"Idempotency-Key": "one"}


def name_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def path_of(data: bytes) -> str:
    digits = hashlib.sha256(data).hexdigest()
    return f"blobs/{digits[:2]}/{digits}"


def put(api: Api, data: bytes) -> str:
    assert api.client.put(f"/blobs/{name_of(data)}", content=data).status_code in (200, 201)
    return name_of(data)


def test_a_form_becomes_a_job(api: Api) -> None:
    files = {"evaluation": ("e.npz", b"eval"), "model": ("net.onnx", b"model"), "calibration": ("c.npz", b"cal")}
    options = {"criterion": {"name": "distinctiveness", "angle_deg": 20}, "seed": 7}
    answer = api.client.post("/prune", files=files, data={"options": json.dumps(options)})
    job = answer.json()
    assert (202, "1", f"/jobs/{job['id']}") == (
        answer.status_code,
        answer.headers["Retry-After"],
        answer.headers["Location"],
    )
    assert ("queued", 0, 20.0, 7) == (
        job["state"],
        job["attempt"],
        job["options"]["criterion"]["angle_deg"],
        job["options"]["seed"],
    )
    assert {"blob": name_of(b"model"), "bytes": 5, "name": "net.onnx"} == job["inputs"]["model"]
    assert name_of(b"eval") == job["inputs"]["evaluation"]["blob"]
    assert {"self": f"/jobs/{job['id']}", "events": f"/jobs/{job['id']}/events"}.items() <= job["links"].items()
    assert job == api.client.get(answer.headers["Location"]).json()
    manifest = f"jobs/{job['id']}/submit.json"
    assert sorted([path_of(b"model"), path_of(b"eval"), path_of(b"cal"), manifest]) == api.files()


def test_links_know_the_public_address(serve: Serve) -> None:
    api = serve(public_url="https://prune.example.org/")
    answer = api.client.post("/prune", files={"model": b"m", "calibration": b"c"})
    assert f"https://prune.example.org/jobs/{answer.json()['id']}" == answer.headers["Location"]


def test_the_manifest_is_on_disk_before_redis_knows_the_job(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    submit = api.service.jobs.submit

    def watched(manifest: SubmitManifest, **limits: int) -> object:
        kept = (api.home / "jobs" / manifest.id / "submit.json").read_text()
        seen.append(SubmitManifest.model_validate_json(kept) == manifest)
        return submit(manifest, **limits)

    monkeypatch.setattr(api.service.jobs, "submit", watched)
    api.submit()
    assert [True] == seen


def test_json_names_blobs(api: Api) -> None:
    model, weights, data = (put(api, one) for one in (b"model", b"weights", b"data"))
    body = {
        "model": {"blob": model, "name": "big.onnx", "external": {"parts/w.bin": weights}},
        "calibration": {"blob": data},
        "options": {"device": "cpu"},
    }
    answer = api.client.post("/prune", json=body)
    assert 202 == answer.status_code
    inputs = answer.json()["inputs"]
    assert {"blob": weights, "bytes": 7, "name": "parts/w.bin"} == inputs["external"]["parts/w.bin"]
    assert {"blob": data, "bytes": 4, "name": ""} == inputs["calibration"]


@pytest.mark.parametrize("location", ["", "/etc/passwd", "../w", "a/../../w", "a\\b", "a//b", "./w", "a\nb", "w" * 501])
def test_external_data_stay_in_their_folder(api: Api, location: str) -> None:
    blob = put(api, b"m")
    body = {"model": {"blob": blob, "external": {location: blob}}, "calibration": {"blob": blob}}
    answer = api.client.post("/prune", json=body)
    assert (422, "request_invalid") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("options", [{f"k{number}": 1 for number in range(5000)}, {"k" * 500_000: 1}])
def test_a_refusal_is_not_much_longer_than_what_is_wrong(api: Api, options: dict[str, int]) -> None:
    answer = api.client.post("/prune", files={"model": b"m"}, data={"options": json.dumps(options)})
    told = answer.json()
    assert (422, "options_invalid", min(len(options), 30)) == (answer.status_code, told["code"], len(told["errors"]))
    assert len(answer.content) < 20_000
    assert ("; and 4970 more" in told["detail"]) == (len(options) == 5000)
    answer = api.client.post("/prune", json=options)
    told = answer.json()
    assert (422, "request_invalid", min(len(options), 30)) == (answer.status_code, told["code"], len(told["errors"]))
    assert len(answer.content) < 20_000


@pytest.mark.parametrize(
    ("body", "code", "pointer", "says"),
    [
        (b"{", "body_invalid", None, "not JSON"),
        (b"{}", "model_missing", None, "model"),
        (b'{"modle": {}}', "request_invalid", "/modle", "did you mean 'model'"),
        (b'{"model": {"blub": "x"}}', "request_invalid", "/model/blub", "did you mean 'blob'"),
        (b'{"model": {"blob": "x"}}', "request_invalid", "/model/blob", "must match"),
        (
            b'{"model": {"blob": "%s"}, "options": {"sed": 1}}' % name_of(b"m").encode(),
            "options_invalid",
            "/sed",
            "seed",
        ),
        (b'{"model": {"blob": "%s"}}' % name_of(b"absent").encode(), "blob_not_found", None, "no such blob"),
    ],
)
def test_what_is_wrong_with_json_is_said(api: Api, body: bytes, code: str, pointer: str | None, says: str) -> None:
    put(api, b"m")
    answer = api.client.post("/prune", content=body, headers={"Content-Type": "application/json"})
    problem = answer.json()
    assert code == problem["code"]
    assert pointer is None or pointer in [one["pointer"] for one in problem["errors"]]
    assert says in problem["detail"]


OPTIONS = [
    ('{"criterion": {"name": "distinctiveness", "angle_deg": 200}}', "/criterion/angle_deg"),
    ('{"criterion": {"name": "distinctiveness", "angel_deg": 20}}', "/criterion/angel_deg"),
    ('{"preprocess": {"std": [0]}}', "/preprocess/std/0"),
    ('{"amount": {"keep_macs": 2}}', "/amount/keep_macs"),
]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("[" * 200_000, "options_not_json"),
        ('{"scope": {"include": ["\\ud800"]}}', "options_not_json"),
        (b"\xff\xfe", "options_not_json"),
        ('{"preprocess": {"mean": [NaN]}}', "options_invalid"),
        ('{"constraints": {"min_accuracy": 1e999}}', "options_invalid"),
        ('{"criterion": {"name": "distinctiveness", "angle_deg": NaN}}', "options_invalid"),
    ],
)
def test_options_that_could_not_be_stored(api: Api, options: str | bytes, code: str) -> None:
    """Accepted, they would come back from the manifest as something else, or not at all."""
    files = {"model": b"m", "calibration": b"c", "options": options}
    assert code == api.client.post("/prune", files=files).json()["code"]
    if isinstance(options, str) and code == "options_invalid":
        body = f'{{"model": {{"blob": "{put(api, b"m")}"}}, "options": {options}}}'
        answer = api.client.post("/prune", content=body, headers={"Content-Type": "application/json"})
        assert code == answer.json()["code"]


@pytest.mark.parametrize(("options", "pointer"), OPTIONS)
def test_wrong_options_are_pointed_at_and_nothing_stays(api: Api, options: str, pointer: str) -> None:
    answer = api.client.post("/prune", files={"model": b"m", "calibration": b"c"}, data={"options": options})
    assert (422, "options_invalid", pointer) == (
        answer.status_code,
        answer.json()["code"],
        answer.json()["errors"][0]["pointer"],
    )
    assert [] == api.files()


@pytest.mark.parametrize(
    ("files", "options", "code"),
    [
        ({"calibration": b"c"}, "{}", "model_missing"),
        ({"model": b"", "calibration": b"c"}, "{}", "model_missing"),
        ({"model": b"m"}, "{}", "calibration_required"),
        ({"model": b"m", "calibration": b"c"}, "{", "options_not_json"),
        ({"model": b"m", "calibration": b"c"}, "[]", "options_not_json"),
        ({"model": b"m", "calibration": b"c"}, '{"device": "cuda"}', "device_unavailable"),
        ({"model": b"m", "extra": b"c"}, "{}", "body_invalid"),
        ({"model": b"m"}, '{"criterion": {"name": "karnin", "threshold": 0.45}}', "history_required"),
    ],
)
def test_a_refused_form_leaves_nothing(api: Api, files: dict[str, bytes], options: str, code: str) -> None:
    answer = api.client.post("/prune", files=files, data={"options": options})
    assert code == answer.json()["code"]
    assert [] == api.files()
    assert [] == api.client.get("/jobs").json()["jobs"]


def test_data_are_optional_where_the_criterion_needs_none(api: Api) -> None:
    options = '{"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}}'
    assert 202 == api.client.post("/prune", files={"model": b"m"}, data={"options": options}).status_code


def test_a_history_is_an_input_as_the_others_are(api: Api) -> None:
    options = {"criterion": {"name": "karnin", "threshold": 0.45}}
    files = {"model": b"m", "history": b"h"}
    form = api.client.post("/prune", files=files, data={"options": json.dumps(options)}, headers=KEY).json()
    assert name_of(b"h") == form["inputs"]["history"]["blob"]
    body = {**{field: {"blob": put(api, data)} for field, data in files.items()}, "options": options}
    assert form["id"] == api.client.post("/prune", json=body, headers=KEY).json()["id"]
    other = {**body, "history": {"blob": put(api, b"h2")}}
    assert "idempotency_key_reused" == api.client.post("/prune", json=other, headers=KEY).json()["code"]


def test_an_upload_that_breaks_off_leaves_nothing(api: Api) -> None:
    def broken() -> object:
        yield b'--b\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n' + b"x" * 3_000_000
        raise RuntimeError("unplugged")

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    with httpx.Client(base_url=api.url) as other, pytest.raises(RuntimeError, match="unplugged"):
        other.post("/prune", content=broken(), headers=kind)
    for _ in range(200):
        if not api.files():
            break
        api.client.get("/healthz")
    assert [] == api.files()


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [({"max_queued_jobs": 1}, 503, "queue_full"), ({"max_jobs_per_key": 1}, 429, "too_many_jobs")],
)
def test_limits(serve: Serve, limits: dict[str, int], status: int, code: str) -> None:
    api = serve(**limits)
    first = api.submit(model=b"first")
    before = api.files()
    answer = api.client.post("/prune", files={"model": b"second", "calibration": b"data"})
    assert (status, code) == (answer.status_code, answer.json()["code"])
    assert int(answer.headers["Retry-After"]) > 0
    assert before == api.files()
    api.client.post(f"/jobs/{first}/cancel")
    assert api.submit(model=b"second")


def test_a_refused_repeat_keeps_the_blobs_of_others(serve: Serve) -> None:
    api = serve(max_jobs_per_key=1)
    api.submit(model=b"shared")
    assert 429 == api.client.post("/prune", files={"model": b"shared", "calibration": b"data"}).status_code
    assert path_of(b"shared") in api.files()


class TestIdempotency:
    def test_fifty_at_once_make_one_job(self, api: Api) -> None:
        def submit(_: int) -> str:
            with httpx.Client(base_url=api.url, timeout=60) as client:
                files = {"model": b"m" * 5000, "calibration": b"c"}
                answer = client.post("/prune", files=files, headers={"Idempotency-Key": "once"})
                assert 202 == answer.status_code, answer.text
                return str(answer.json()["id"])

        with ThreadPoolExecutor(10) as pool:
            ids = set(pool.map(submit, range(50)))
        assert 1 == len(ids)
        assert ids == {job["id"] for job in api.client.get("/jobs").json()["jobs"]}
        assert sorted([path_of(b"m" * 5000), path_of(b"c"), f"jobs/{ids.pop()}/submit.json"]) == api.files()

    def test_another_body_is_refused(self, api: Api) -> None:
        first = api.submit(**{"Idempotency-Key": "k"})
        assert first == api.submit(**{"Idempotency-Key": "k"})
        answer = api.client.post(
            "/prune", files={"model": b"other", "calibration": b"data"}, headers={"Idempotency-Key": "k"}
        )
        assert (422, "idempotency_key_reused") == (answer.status_code, answer.json()["code"])
        assert path_of(b"other") not in api.files()
        # What the files are called does not make another request of it; the options do.
        again = api.client.post(
            "/prune", files={"model": ("x", b"model"), "calibration": b"data"}, headers={"Idempotency-Key": "k"}
        )
        assert first == again.json()["id"]
        seeded = api.client.post(
            "/prune",
            files={"model": b"model", "calibration": b"data"},
            data={"options": '{"seed": 1}'},
            headers={"Idempotency-Key": "k"},
        )
        assert "idempotency_key_reused" == seeded.json()["code"]

    def test_form_and_json_are_the_same_request(self, api: Api) -> None:
        first = api.submit(**{"Idempotency-Key": "k"})
        body = {"model": {"blob": put(api, b"model")}, "calibration": {"blob": put(api, b"data")}}
        assert first == api.client.post("/prune", json=body, headers={"Idempotency-Key": "k"}).json()["id"]

    def test_the_time_it_is_remembered(self, serve: Serve) -> None:
        api = serve(idempotency_seconds=77)
        api.submit(**{"Idempotency-Key": "k"})
        (key,) = api.service.jobs.redis.keys("idem:*")
        assert 70 < api.service.jobs.redis.ttl(key) <= 77

    @pytest.mark.parametrize("key", ["", "k" * 201, "ä"])
    def test_unusable_keys(self, api: Api, key: str) -> None:
        headers = {"Idempotency-Key": key.encode("latin-1")}
        answer = api.client.post("/prune", files={"model": b"m"}, headers=headers)
        assert (400, "idempotency_key_invalid") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize(
    ("live", "device", "queue"),
    [
        ("cpu", "auto", "cpu"),
        ("gpu", "auto", "gpu"),
        ("gpu", "cuda", "gpu"),
        ("gpu", "cpu", "cpu"),
    ],
)
def test_the_device_chooses_the_queue(api: Api, live: str, device: str, queue: str) -> None:
    worker = {"name": "w", "queue": live, "sandbox_level": "full", "pid": 1, "host": "h", "started_at": 0.0}
    api.service.jobs.beat(WorkerInfo.model_validate(worker), 30)
    job_id = api.submit(options=json.dumps({"device": device}))
    kept = (api.home / "jobs" / job_id / "submit.json").read_text()
    assert queue == SubmitManifest.model_validate_json(kept).queue
    assert 1 == api.service.jobs.redis.llen(f"prune.{queue}")


def test_other_content_types_are_refused(api: Api) -> None:
    answer = api.client.post("/prune", content=b"x", headers={"Content-Type": "application/x-protobuf"})
    assert (415, "unsupported_media_type") == (answer.status_code, answer.json()["code"])


def test_a_sick_disk_is_503(api: Api) -> None:
    (api.home / "tmp").rmdir() if (api.home / "tmp").exists() else None
    api.home.mkdir(exist_ok=True)
    (Path(api.home) / "tmp").write_text("not a folder")
    answer = api.client.post("/prune", files={"model": b"m", "calibration": b"c"})
    assert (503, "storage_unavailable") == (answer.status_code, answer.json()["code"])
    assert "Retry-After" in answer.headers
