"""Blobs: streamed, hashed, owned, and nothing left of what was refused."""

import hashlib
import os
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from tests.service.conftest import Api

Serve = Callable[..., Api]
DATA = b"weights" * 1000
NAME = "sha256:" + hashlib.sha256(DATA).hexdigest()


def test_put_head_delete(api: Api) -> None:
    path = f"/blobs/{NAME}"
    assert 404 == api.client.head(path).status_code
    first = api.client.put(path, content=DATA)
    assert (201, {"blob": NAME, "bytes": len(DATA)}) == (first.status_code, first.json())
    assert 200 == api.client.put(path, content=DATA).status_code
    head = api.client.head(path)
    assert (200, str(len(DATA))) == (head.status_code, head.headers["Content-Length"])
    digits = NAME.removeprefix("sha256:")
    assert [f"blobs/{digits[:2]}/{digits}"] == api.files()
    assert 204 == api.client.delete(path).status_code
    assert [] == api.files()
    gone = api.client.delete(path)
    assert (404, "blob_not_found") == (gone.status_code, gone.json()["code"])


@pytest.mark.parametrize("had", [True, False])
def test_other_content_is_refused_even_where_the_name_is_known(api: Api, had: bool) -> None:
    if had:
        api.client.put(f"/blobs/{NAME}", content=DATA)
    before = api.files()
    answer = api.client.put(f"/blobs/{NAME}", content=DATA + b"!")
    assert (422, "blob_hash_mismatch") == (answer.status_code, answer.json()["code"])
    assert before == api.files()
    assert (200 if had else 404) == api.client.head(f"/blobs/{NAME}").status_code


@pytest.mark.parametrize("name", ["x", "sha256:", "sha256:" + "A" * 64, "sha256:" + "0" * 63, "md5:" + "0" * 64])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_names_that_are_none(api: Api, method: str, name: str) -> None:
    answer = api.client.request(method, f"/blobs/{name}")
    assert (400, "blob_name_invalid") == (answer.status_code, answer.json()["code"])


def test_a_job_keeps_the_blob_that_its_owner_let_go(api: Api) -> None:
    api.client.put(f"/blobs/{NAME}", content=DATA)
    job_id = api.client.post("/prune", json={"model": {"blob": NAME}, "calibration": {"blob": NAME}}).json()["id"]
    assert 204 == api.client.delete(f"/blobs/{NAME}").status_code
    assert any(name.startswith("blobs/") for name in api.files())
    api.client.post(f"/jobs/{job_id}/cancel")
    assert not any(name.startswith("blobs/") for name in api.files())


def test_an_upload_that_breaks_off_leaves_nothing(api: Api) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 3_000_000
        raise RuntimeError("unplugged")

    with httpx.Client(base_url=api.url) as other, pytest.raises(RuntimeError, match="unplugged"):
        other.put(f"/blobs/{NAME}", content=broken())
    for _ in range(200):
        if not api.files():
            break
        api.client.get("/healthz")
    assert [] == api.files()


def test_memory_does_not_grow_with_the_upload(process: tuple[psutil.Process, str]) -> None:
    """64 MB here; `benchmarks/upload.py` prints the figure for 600 MB."""
    seen, url = process
    block = os.urandom(1024 * 1024)
    name = hashlib.sha256(block * 64).hexdigest()
    form = b'--b\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n'

    def body(before: bytes, after: bytes) -> Iterator[bytes]:
        yield before
        for _ in range(64):
            yield block
        yield after

    with httpx.Client(base_url=url, timeout=60) as client:
        # Whatever is loaded at the first use is loaded now.
        client.put(f"/blobs/sha256:{hashlib.sha256(block).hexdigest()}", content=block)
        client.post("/prune", files={"model": block, "calibration": block})
        before = seen.memory_info().rss
        assert 201 == client.put(f"/blobs/sha256:{name}", content=body(b"", b"")).status_code
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        refused = client.post("/prune", content=body(form, b"\r\n--b--\r\n"), headers=kind)
        assert "calibration_required" == refused.json()["code"]
        grown = seen.memory_info().rss - before
    assert grown < 20 * 1024 * 1024
