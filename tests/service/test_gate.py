"""Who is let in, and how much they may send: decided on the head of a request, before its body."""

import hashlib
import select
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.errors import EspalierError
from service.app import create_app
from service.auth import is_loopback, read_keys
from state.settings import Settings
from tests.service.conftest import Api

Serve = Callable[..., Api]


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Two keys of ann (an old and a new one), one of bob."""
    path = tmp_path / "keys"
    path.write_text(f"# who\nann:{digest('old')}\n\nann:{digest('new')}  # since May\nbob:{digest('bobs')}\n")
    return path


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer old"},
        {"Authorization": "bearer new"},
        {"X-API-Key": "new"},
        # Host and Origin are no matter where a key is needed: no page has one.
        {"X-API-Key": "new", "Host": "prune.example.org", "Origin": "https://example.org"},
    ],
)
def test_a_key_opens(serve: Serve, keys: Path, headers: dict[str, str]) -> None:
    assert 200 == serve(api_keys_file=keys).client.get("/jobs", headers=headers).status_code


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer olD"},
        {"Authorization": "Basic old"},
        {"X-API-Key": digest("old")},
        {"X-API-Key": "ann"},
    ],
)
def test_anything_else_does_not(serve: Serve, keys: Path, headers: dict[str, str]) -> None:
    answer = serve(api_keys_file=keys).client.get("/jobs", headers=headers)
    assert (401, "unauthorized", "Bearer") == (
        answer.status_code,
        answer.json()["code"],
        answer.headers["WWW-Authenticate"],
    )


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/criteria", "/targets"])
def test_some_paths_are_open(serve: Serve, keys: Path, path: str) -> None:
    assert 401 != serve(api_keys_file=keys).client.get(path).status_code


def test_jobs_and_blobs_of_another_key_are_not_there(serve: Serve, keys: Path) -> None:
    api = serve(api_keys_file=keys)
    ann, bob = {"X-API-Key": "old"}, {"X-API-Key": "bobs"}
    job_id = api.submit(**ann)
    blob = "sha256:" + digest("x")
    assert 201 == api.client.put(f"/blobs/{blob}", content=b"x", headers=ann).status_code
    for method, path in [
        ("GET", f"/jobs/{job_id}"),
        ("GET", f"/jobs/{job_id}?wait=5"),
        ("GET", f"/jobs/{job_id}/events"),
        ("GET", f"/jobs/{job_id}/artifact"),
        ("GET", f"/jobs/{job_id}/report"),
        ("POST", f"/jobs/{job_id}/cancel"),
        ("DELETE", f"/jobs/{job_id}"),
        ("HEAD", f"/blobs/{blob}"),
        ("DELETE", f"/blobs/{blob}"),
    ]:
        assert (method, path, 404) == (method, path, api.client.request(method, path, headers=bob).status_code)
    named = api.client.post("/prune", json={"model": {"blob": blob}}, headers=bob)
    assert "blob_not_found" == named.json()["code"]
    assert [] == api.client.get("/jobs", headers=bob).json()["jobs"]
    assert "queued" == api.client.get(f"/jobs/{job_id}", headers=ann).json()["state"]
    # Bob has the same content: he sends it all, and only then it is his too.
    assert 201 == api.client.put(f"/blobs/{blob}", content=b"x", headers=bob).status_code
    assert 200 == api.client.head(f"/blobs/{blob}", headers=bob).status_code


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("127.0.0.1:{port}", None, None),
        ("localhost:{port}", None, None),
        ("[::1]:{port}", None, None),
        ("127.8.8.8", None, None),
        ("prune.example.org", None, None),
        ("localhost:{port}", "http://localhost:{port}", None),
        ("localhost:{port}", "https://prune.example.org", None),
        ("evil.example.com", None, "host_forbidden"),
        ("127.0.0.1.evil.example.com", None, "host_forbidden"),
        ("localhost.evil.example.com", None, "host_forbidden"),
        ("prune.example.org:81", None, "host_forbidden"),
        ("localhost:{port}", "https://evil.example.com", "origin_forbidden"),
        ("localhost:{port}", "http://localhost:9", "origin_forbidden"),
        ("localhost:{port}", "null", "origin_forbidden"),
        ("localhost:{port}", "http://[", "origin_forbidden"),
        ("localhost:{port}", "http://[localhost]:{port}", "origin_forbidden"),
    ],
)
def test_without_keys_only_this_machine_may_ask(
    serve: Serve, host: str, origin: str | None, expected: str | None
) -> None:
    api = serve(public_url="https://prune.example.org")
    headers = {"Host": host.format(port=api.port)}
    if origin is not None:
        headers["Origin"] = origin.format(port=api.port)
    answer = api.client.get("/jobs", headers=headers)
    assert expected == answer.json().get("code")
    assert (200 if expected is None else 403) == answer.status_code


def test_without_keys_the_service_stays_on_this_machine(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(EspalierError, match=r"loopback only, not to 0\.0\.0\.0"):
        create_app(Settings(host="0.0.0.0", home=tmp_path))
    create_app(Settings(host="0.0.0.0", home=tmp_path, api_keys_file=keys))


@pytest.mark.parametrize(
    ("host", "expected"), [("localhost", True), ("::1", True), ("127.1.2.3", True), ("10.0.0.1", False)]
)
def test_what_loopback_is(host: str, expected: bool) -> None:
    assert expected == is_loopback(host)


@pytest.mark.parametrize(
    "text", ["", "# only words\n", "ann\n", "ann:secret\n", f"a:b:{'0' * 64}\n", f"ann:{'A' * 64}\n", f":{'0' * 64}\n"]
)
def test_a_damaged_keys_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(EspalierError, match=str(path)):
        read_keys(path)
    with pytest.raises(EspalierError, match="cannot be read"):
        read_keys(tmp_path / "absent")


def test_a_declared_length_above_the_limit_is_refused_on_the_head(serve: Serve) -> None:
    api = serve(max_upload_bytes=1000)
    with socket.create_connection(("127.0.0.1", api.port)) as line:
        line.sendall(b"PUT /blobs/sha256:0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1001\r\n\r\n")
        assert b"413" == line.recv(65536).split(b" ")[1]
    assert 422 == api.client.put(f"/blobs/sha256:{'0' * 64}", content=b"x" * 1000).status_code


def test_a_body_without_a_length_is_stopped_at_the_limit(serve: Serve) -> None:
    api = serve(max_upload_bytes=1_000_000)

    def endless() -> object:
        for _ in range(20):
            yield b"x" * 100_000

    answer = api.client.put(f"/blobs/sha256:{'0' * 64}", content=endless())
    assert (413, "payload_too_large") == (answer.status_code, answer.json()["code"])
    assert [] == api.files()


@pytest.mark.parametrize("path", ["/prune", f"/blobs/sha256:{'0' * 64}"])
def test_an_upload_without_a_key_is_refused_before_two_megabytes_were_sent(serve: Serve, keys: Path, path: str) -> None:
    api = serve(api_keys_file=keys)
    method = "POST" if path == "/prune" else "PUT"
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with socket.create_connection(("127.0.0.1", api.port)) as line:
        line.sendall(f"{head}Content-Length: 600000000\r\n\r\n".encode())
        sent = 0
        # A sender that looks for an answer between its packets, at some 6 MB/s.
        while not select.select([line], [], [], 0.01)[0]:
            sent += line.send(b"x" * 65536)
        answer = line.recv(65536)
    assert b"401" == answer.split(b" ")[1]
    assert b"connection: close" in answer.lower()
    assert sent < 2_000_000
    assert [] == api.files()


def test_a_small_refused_form_still_gets_its_answer(serve: Serve, keys: Path) -> None:
    """Its body is already under way; a connection closed at once would be reset, and the answer lost."""
    api = serve(api_keys_file=keys)
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", api.port)) as line:
            line.sendall(b"PUT /blobs/x HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)
            answer = b""
            # A connection that was reset would raise here.
            while more := line.recv(65536):
                answer += more
        assert b"401" == answer.split(b" ")[1]
        assert b'"code":"unauthorized"' in answer
