"""The failures of the web shell: every code known, documented, and reachable by a request."""

import ast
import json
import logging
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from schemas.errors import FAILURES
from service.errors import RETRY_AFTER, Problem
from tests.service.conftest import Api
from tests.service.test_gate import digest

Serve = Callable[..., Api]
ROOT = Path(__file__).parents[2]
SHELL = [
    *("accept", "app", "auth", "body", "downloads", "errors", "events", "intake", "multipart", "observe", "submit"),
    *("routes/blobs", "routes/jobs", "routes/meta", "routes/results", "routes/submit"),
]


def raised(path: Path) -> set[str]:
    """The codes that a source file gives to `EspalierError`."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id == "EspalierError"
        and call.args
        and isinstance(call.args[0], ast.Constant)
    }


def sources() -> list[Path]:
    return [path for folder in ("schemas", "service", "state", "worker") for path in (ROOT / folder).rglob("*.py")]


def test_every_code_in_the_source_is_in_the_table() -> None:
    used = set().union(*(raised(path) for path in sources()))
    assert set() == used - set(FAILURES)
    # The search itself finds something.
    assert {"unauthorized", "queue_full", "blob_not_found"} <= used


def test_every_code_says_what_it_means_and_what_to_try() -> None:
    for code, kind in FAILURES.items():
        assert kind.title, code
        assert kind.hint.endswith("."), code
        assert 400 <= kind.status < 600, code
    assert set(RETRY_AFTER) <= {code for code, kind in FAILURES.items() if kind.retry}


FORM = {"model": b"m", "calibration": b"c"}
BLOB = "/blobs/sha256:" + "0" * 64
KEY = {"Idempotency-Key": "k"}


def prune(api: Api, files: dict[str, bytes] = FORM, options: str = "{}", **headers: str) -> httpx.Response:
    return api.client.post("/prune", files=files, data={"options": options}, headers=headers)


def json_prune(api: Api, body: object) -> httpx.Response:
    return api.client.post("/prune", content=json.dumps(body), headers={"Content-Type": "application/json"})


def after(api: Api, do: Callable[[str], object], path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """A request for a job with which something was done first."""
    job_id = api.submit()
    do(job_id)
    return api.client.request(method, f"/jobs/{job_id}{path}", headers=headers)


def break_feed(api: Api) -> httpx.Response:
    api.service.feed._free = 0
    return api.client.get(f"/jobs/{api.submit()}?wait=1")


def break_storage(api: Api) -> httpx.Response:
    api.home.mkdir()
    (api.home / "tmp").write_text("not a folder")
    return prune(api)


def break_routes(api: Api) -> httpx.Response:
    object.__setattr__(api.service, "jobs", None)
    return api.client.get("/jobs")


def full(api: Api) -> httpx.Response:
    prune(api)
    return prune(api, {"model": b"2", "calibration": b"c"})


def reused(api: Api) -> httpx.Response:
    prune(api, **KEY)
    return prune(api, options='{"seed": 1}', **KEY)


NOWHERE = {"redis_url": "unix:///nowhere/redis.sock"}

REACHED: dict[str, tuple[dict[str, object], Callable[[Api], httpx.Response]]] = {
    "options_invalid": ({}, lambda api: prune(api, options='{"sed": 1}')),
    "options_not_json": ({}, lambda api: prune(api, options="{")),
    "body_invalid": ({}, lambda api: prune(api, {"modl": b"m"})),
    "model_missing": ({}, lambda api: prune(api, {"calibration": b"c"})),
    "not_acceptable": ({}, lambda api: after(api, api.succeed, "/report", Accept="image/png")),
    "unsupported_media_type": ({}, lambda api: api.client.post("/prune", content=b"x")),
    "not_found": ({}, lambda api: api.client.get("/nowhere")),
    "method_not_allowed": ({}, lambda api: api.client.put("/jobs")),
    "blob_not_found": ({}, lambda api: json_prune(api, {"model": {"blob": "sha256:" + "0" * 64}})),
    "blob_hash_mismatch": ({}, lambda api: api.client.put(BLOB, content=b"x")),
    "blob_name_invalid": ({}, lambda api: api.client.put("/blobs/x", content=b"x")),
    "payload_too_large": ({"max_upload_bytes": 9}, lambda api: api.client.put(BLOB, content=b"x" * 10)),
    "range_not_satisfiable": ({}, lambda api: after(api, api.succeed, "/artifact", Range="bytes=99999-")),
    "cursor_invalid": ({}, lambda api: api.client.get("/jobs?cursor=x")),
    "idempotency_key_reused": ({}, reused),
    "idempotency_key_invalid": ({}, lambda api: prune(api, **{"Idempotency-Key": "k" * 201})),
    "request_invalid": ({}, lambda api: api.client.get("/jobs?limit=x")),
    "unauthorized": ({"api_keys_file": "keys"}, lambda api: api.client.get("/jobs")),
    "host_forbidden": ({}, lambda api: api.client.get("/jobs", headers={"Host": "evil.example.com"})),
    "origin_forbidden": ({}, lambda api: api.client.get("/jobs", headers={"Origin": "https://evil.example.com"})),
    "queue_full": ({"max_queued_jobs": 1}, full),
    "too_many_jobs": ({"max_jobs_per_key": 1}, full),
    "too_many_listeners": ({}, break_feed),
    "state_unavailable": (NOWHERE, prune),
    "storage_unavailable": ({}, break_storage),
    "device_unavailable": ({}, lambda api: prune(api, options='{"device": "cuda"}')),
    "calibration_required": ({}, lambda api: prune(api, {"model": b"m"})),
    "history_required": (
        {},
        lambda api: prune(
            api, {"model": b"m", "calibration": b"c"}, options='{"criterion": {"name": "karnin", "threshold": 0.4}}'
        ),
    ),
    "job_not_finished": ({}, lambda api: after(api, lambda _: None, "/artifact")),
    "job_has_no_result": ({}, lambda api: after(api, api.fail, "/report.md")),
    "job_still_running": ({}, lambda api: after(api, api.start, "", "DELETE")),
    "internal_error": ({}, break_routes),
}


@pytest.mark.parametrize("code", REACHED)
def test_the_code_comes_as_a_problem(serve: Serve, tmp_path: Path, code: str) -> None:
    settings, ask = REACHED[code]
    if "api_keys_file" in settings:
        settings = {"api_keys_file": tmp_path / "keys"}
        (tmp_path / "keys").write_text(f"ann:{digest('x')}\n")
    answer = ask(serve(**settings))
    problem = Problem.model_validate_json(answer.content)
    kind = FAILURES[code]
    assert "application/problem+json" == answer.headers["Content-Type"]
    assert (code, kind.status, kind.status) == (problem.code, problem.status, answer.status_code)
    assert (kind.title, f"/docs#{code}", answer.request.url.path) == (problem.title, problem.type, problem.instance)
    assert problem.detail
    assert problem.hint
    assert problem.request_id == answer.headers["X-Request-ID"]
    assert kind.retry == ("Retry-After" in answer.headers)


def test_every_code_of_the_shell_is_reached() -> None:
    used = set().union(*(raised(ROOT / "service" / f"{name}.py") for name in SHELL))
    state = {"queue_full", "too_many_jobs", "state_unavailable", "cursor_invalid", "idempotency_key_reused"}
    # The settings are refused before there is a server.
    assert set() == (used | state) - set(REACHED)


def test_what_nobody_foresaw_is_logged_and_not_told(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    api = serve()
    with caplog.at_level(logging.ERROR, "espalier.http"):
        answer = break_routes(api)
    assert "Traceback" not in answer.text
    assert "'NoneType'" not in answer.text
    (record,) = [one for one in caplog.records if one.name == "espalier.http"]
    assert answer.json()["request_id"] in record.getMessage()
    assert record.exc_info is not None
    assert 200 == api.client.get("/healthz").status_code
