"""The Python client against a real API; a transport of its own only for answers that no healthy service gives."""

import hashlib
import json
import resource
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from schemas.errors import EspalierError
from schemas.files import weights_name
from schemas.job import JobState, Progress
from schemas.request import PruneRequest, parse_options
from service.client import Client
from tests.cli.conftest import Finished, deliver
from tests.service.conftest import Api

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    with Client(api.url) as client:
        yield client


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "net.onnx").write_bytes(b"a model")
    return tmp_path / "net.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "cal.npz").write_bytes(b"data")
    return tmp_path / "cal.npz"


def answering(*answers: httpx.Response | Exception) -> tuple[Client, list[float], list[httpx.Request]]:
    """A client of a service that gives these answers in turn; its pauses, and what it asked."""
    left = list(answers)
    pauses: list[float] = []
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        request.read()
        asked.append(request)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Client("http://test", transport=httpx.MockTransport(handle), sleep=pauses.append), pauses, asked


def problem(status: int, code: str, **more: object) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "title": "t", "detail": "d", "status": status, **more})


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(EspalierError) as refusal:
        call()
    return refusal.value.code


def test_submit_sends_files_names_and_options(client: Client, model: Path, data: Path) -> None:
    request = parse_options(
        {"criterion": {"name": "distinctiveness", "angle_deg": 33}, "evaluation": {"from": "logits"}}
    )
    job = client.submit(model, request, calibration=data, evaluation=data)
    assert request == job.options
    assert ("net.onnx", "cal.npz") == (job.inputs.model.name, job.inputs.calibration and job.inputs.calibration.name)
    assert f"sha256:{hashlib.sha256(b'a model').hexdigest()}" == job.inputs.model.blob
    assert job.inputs.evaluation is not None
    assert job == client.get(job.id)


def test_external_data_goes_as_blobs(client: Client, model: Path, data: Path) -> None:
    job = client.submit(model, PruneRequest(), calibration=data, external={"weights.bin": data})
    assert ["weights.bin"] == list(job.inputs.external)
    assert f"sha256:{hashlib.sha256(b'data').hexdigest()}" == job.inputs.external["weights.bin"].blob


def test_one_key_makes_one_job(client: Client, model: Path, data: Path) -> None:
    jobs = [client.submit(model, PruneRequest(), calibration=data, idempotency_key="k") for _ in range(2)]
    assert jobs[0].id == jobs[1].id
    assert jobs[0].id != client.submit(model, PruneRequest(), calibration=data).id


def test_jobs_are_listed_in_pages(client: Client, model: Path, data: Path) -> None:
    made = [client.submit(model, PruneRequest(), calibration=data).id for _ in range(3)]
    first = client.jobs(limit=2)
    second = client.jobs(limit=2, cursor=first.next)
    assert made[::-1] == [job.id for job in (*first.jobs, *second.jobs)]


def test_cancel_and_delete(client: Client, model: Path, data: Path) -> None:
    job = client.submit(model, PruneRequest(), calibration=data)
    assert JobState.CANCELLED is client.cancel(job.id).state
    client.delete(job.id)
    assert "not_found" == code_of(lambda: client.get(job.id))


def test_wait_follows_a_job_to_its_end(api: Api, client: Client, model: Path, data: Path, finished: Finished) -> None:
    job = client.submit(model, PruneRequest(), calibration=data)
    seen: list[Progress] = []
    threading.Timer(0.3, deliver, (api, job.id, finished)).start()
    assert JobState.SUCCEEDED is client.wait(job.id, seen.append).state
    assert "half" in [progress.message for progress in seen]


def test_wait_asks_again_and_again_where_events_cannot_be_had(
    api: Api, model: Path, data: Path, finished: Finished
) -> None:
    class NoEvents(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/events"):
                return httpx.Response(502, text="a proxy that knows no events")
            return super().handle_request(request)

    with Client(api.url, transport=NoEvents()) as client:
        job = client.submit(model, PruneRequest(), calibration=data)
        threading.Timer(0.3, deliver, (api, job.id, finished)).start()
        assert JobState.SUCCEEDED is client.wait(job.id).state


def test_wait_does_not_wait_for_a_job_that_is_not_there(client: Client) -> None:
    assert "not_found" == code_of(lambda: client.wait("0" * 32))


def test_events_go_on_after_the_last_one_seen(
    api: Api, client: Client, model: Path, data: Path, finished: Finished
) -> None:
    job = client.submit(model, PruneRequest(), calibration=data)
    deliver(api, job.id, finished)
    events = list(client.events(job.id))
    assert JobState.SUCCEEDED is events[-1].state
    assert events[2:] == list(client.events(job.id, events[1].id))


def test_the_files_arrive_as_they_were_made(
    api: Api, client: Client, model: Path, data: Path, finished: Finished, tmp_path: Path
) -> None:
    job = client.submit(model, PruneRequest(), calibration=data)
    assert "job_has_no_result" == code_of(lambda: client.artifact(job.id, tmp_path / "early.onnx"))
    deliver(api, job.id, finished)
    client.artifact(job.id, tmp_path / "small.onnx")
    assert finished.artifact == (tmp_path / "small.onnx").read_bytes()
    assert finished.reports == {kind: client.report_document(job.id, kind) for kind in ("json", "html", "md")}
    assert len(finished.artifact) == client.report(job.id).after.file_bytes


def test_weights_in_a_file_of_their_own_arrive_beside_the_model(
    api: Api, client: Client, model: Path, data: Path, finished: Finished, tmp_path: Path
) -> None:
    job = client.submit(model, PruneRequest(), calibration=data)
    sha = hashlib.sha256(b"weights").hexdigest()
    name = weights_name(sha)
    report = json.loads(finished.reports["json"])
    report["provenance"]["artifact_external_sha256"] = {name: sha}
    reports = {**finished.reports, "json": json.dumps(report).encode()}
    deliver(api, job.id, replace(finished, reports=reports, further={name: b"weights", "curve.csv": b"1,2"}))
    client.artifact(job.id, tmp_path / "out" / "small.onnx")
    assert {"small.onnx", name} == {path.name for path in (tmp_path / "out").iterdir()}
    assert b"weights" == (tmp_path / "out" / name).read_bytes()


def test_further_files_arrive_by_their_names(
    api: Api, client: Client, model: Path, data: Path, finished: Finished, tmp_path: Path
) -> None:
    job = client.submit(model, PruneRequest(), calibration=data)
    assert "job_not_finished" == code_of(lambda: client.artifacts(job.id))
    deliver(api, job.id, replace(finished, further={"curve.csv": b"1,2"}))
    listed = {one.name: one for one in client.artifacts(job.id)}
    assert ["artifact.onnx", "report.json", "report.html", "report.md", "curve.csv"] == list(listed)
    assert (3, hashlib.sha256(b"1,2").hexdigest()) == (listed["curve.csv"].bytes, listed["curve.csv"].sha256)
    client.download(job.id, "curve.csv", tmp_path / "c.csv")
    assert b"1,2" == (tmp_path / "c.csv").read_bytes()
    client.download(job.id, "artifact.onnx", tmp_path / "a.onnx")
    assert finished.artifact == (tmp_path / "a.onnx").read_bytes()
    assert "not_found" == code_of(lambda: client.download(job.id, "surface.csv", tmp_path / "s.csv"))
    assert not (tmp_path / "s.csv").exists()


def test_a_list_with_a_name_that_would_leave_the_folder_is_refused() -> None:
    listed = {"name": "../../.bashrc", "bytes": 1, "sha256": "0" * 64, "media_type": "text/plain"}
    client, _, _ = answering(httpx.Response(200, json={"artifacts": [listed]}))
    assert "response_invalid" == code_of(lambda: client.artifacts("x"))


def test_a_file_that_arrives_damaged_is_not_kept(
    api: Api, model: Path, data: Path, finished: Finished, tmp_path: Path
) -> None:
    class Damaging(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            if request.url.path.endswith("/artifact"):
                return httpx.Response(200, content=finished.artifact[:-1] + b"!")
            return answer

    with Client(api.url, transport=Damaging()) as client:
        job = client.submit(model, PruneRequest(), calibration=data)
        deliver(api, job.id, finished)
        assert "download_corrupt" == code_of(lambda: client.artifact(job.id, tmp_path / "small.onnx"))
    assert {model.name, data.name} <= {one.name for one in tmp_path.iterdir()}
    assert [] == [one.name for one in tmp_path.iterdir() if "small" in one.name]


def test_refusals_keep_their_code_pointers_and_hint(client: Client, model: Path) -> None:
    with pytest.raises(EspalierError) as refusal:
        client.submit(model, PruneRequest())
    assert "calibration_required" == refusal.value.code
    assert refusal.value.failure.hint
    client_, _, _ = answering(problem(422, "options_invalid", errors=[{"pointer": "/seed", "detail": "no"}]))
    with pytest.raises(EspalierError) as refusal:
        client_.get("x")
    assert ["/seed"] == [one.pointer for one in refusal.value.failure.errors]


def test_codes_of_a_newer_service_are_kept() -> None:
    client, _, _ = answering(problem(418, "teapot", hint="drink it"))
    with pytest.raises(EspalierError) as refusal:
        client.get("x")
    assert ("teapot", "drink it", 500) == (refusal.value.code, refusal.value.failure.hint, refusal.value.status)


@pytest.mark.parametrize("answer", [httpx.Response(502, text="<html>"), httpx.Response(500, json=[1])])
def test_a_page_of_somebody_else_is_said_to_be_one(answer: httpx.Response) -> None:
    client, _, _ = answering(answer)
    assert "response_invalid" == code_of(lambda: client.get("x"))


def test_a_good_status_without_a_job_is_refused() -> None:
    client, _, _ = answering(httpx.Response(200, json={"hello": 1}))
    assert "response_invalid" == code_of(lambda: client.get("x"))


def test_what_passes_by_itself_is_asked_again_after_the_pause_it_names() -> None:
    unwell = problem(503, "state_unavailable")
    unwell.headers["Retry-After"] = "3"
    client, pauses, asked = answering(unwell, problem(429, "too_many_jobs"), problem(404, "not_found"))
    assert "not_found" == code_of(lambda: client.get("x"))
    assert ([3.0, 1.0], 3) == (pauses, len(asked))


def test_what_does_not_pass_is_not_asked_again() -> None:
    client, pauses, _ = answering(problem(503, "device_unavailable"))
    assert "device_unavailable" == code_of(lambda: client.get("x"))
    assert [] == pauses


def test_a_pause_is_never_long_and_there_is_an_end() -> None:
    answers = [problem(503, "queue_full") for _ in range(5)]
    for answer in answers:
        answer.headers["Retry-After"] = "3600"
    client, pauses, _ = answering(*answers)
    assert "queue_full" == code_of(lambda: client.get("x"))
    assert [10.0] * 4 == pauses


def test_a_broken_connection_repeats_the_upload_under_the_same_key(model: Path) -> None:
    client, pauses, asked = answering(httpx.ReadError("gone"), problem(422, "model_missing"))
    assert "model_missing" == code_of(lambda: client.submit(model, PruneRequest()))
    assert asked[0].headers["Idempotency-Key"] == asked[1].headers["Idempotency-Key"]
    assert b"a model" in asked[1].content
    assert [0.25] == pauses


def test_nobody_there_is_said_so() -> None:
    client = Client("http://127.0.0.1:9", sleep=lambda _: None)
    assert "service_unreachable" == code_of(client.jobs)
    assert "service_unreachable" == code_of(lambda: list(client.events("x")))
    assert "service_unreachable" == code_of(lambda: Client("127.0.0.1:8000", sleep=lambda _: None).jobs())
    assert "service_unreachable" == code_of(lambda: Client("http://[::"))


def test_the_key_is_sent(serve: Callable[..., Api], tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(f"me:{hashlib.sha256(b'secret').hexdigest()}\n")
    api = serve(api_keys_file=keys)
    with Client(api.url, "secret") as known, Client(api.url) as unknown:
        assert () == known.jobs().jobs
        assert "unauthorized" == code_of(unknown.jobs)


def test_an_upload_needs_little_memory(api: Api, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(96 << 20)
    client.upload(path)  # once, so that what the first upload allocates does not count
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    client.submit(path, PruneRequest(), calibration=path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 40 << 10, f"{grown} KiB more, API and client together, for 192 MiB"
