"""Artifacts and reports: tags, ranges, digests, names, forms."""

import base64
import hashlib
from collections.abc import Callable

import pytest

from schemas.errors import EspalierError
from service.accept import preferred
from service.downloads import disposition, parse_range, safe_stem
from tests.service.conftest import ARTIFACT, REPORTS, Api

Serve = Callable[..., Api]
SIZE = len(ARTIFACT)
TAG = f'"{hashlib.sha256(ARTIFACT).hexdigest()}"'


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


@pytest.fixture
def path(api: Api) -> str:
    """The artifact of a job that has succeeded."""
    job_id = api.submit()
    api.succeed(job_id)
    return f"/jobs/{job_id}/artifact"


def test_the_whole_file(api: Api, path: str) -> None:
    answer = api.client.get(path)
    assert (200, ARTIFACT, TAG, "bytes") == (
        answer.status_code,
        answer.content,
        answer.headers["ETag"],
        answer.headers["Accept-Ranges"],
    )
    assert digest(ARTIFACT) == answer.headers["Content-Digest"] == answer.headers["Repr-Digest"]
    assert 'attachment; filename="net.pruned.onnx"' == answer.headers["Content-Disposition"]
    head = api.client.head(path)
    assert (200, b"") == (head.status_code, head.content)
    same = ("ETag", "Content-Length", "Content-Digest", "Content-Disposition", "Content-Type")
    assert [answer.headers[name] for name in same] == [head.headers[name] for name in same]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=5000-", 5000, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        ("bytes=-999999", 0, SIZE),
        ("bytes=5000-999999", 5000, SIZE),
    ],
)
def test_a_range(api: Api, path: str, asked: str, start: int, end: int) -> None:
    answer = api.client.get(path, headers={"Range": asked})
    assert (206, ARTIFACT[start:end]) == (answer.status_code, answer.content)
    assert f"bytes {start}-{end - 1}/{SIZE}" == answer.headers["Content-Range"]
    assert str(end - start) == answer.headers["Content-Length"]
    # RFC 9530: one digest is of what was sent, the other of what the file is.
    assert digest(ARTIFACT[start:end]) == answer.headers["Content-Digest"]
    assert digest(ARTIFACT) == answer.headers["Repr-Digest"]


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=99999999-99999999", "bytes=-0"])
def test_a_range_outside(api: Api, path: str, asked: str) -> None:
    answer = api.client.get(path, headers={"Range": asked})
    assert (416, "range_not_satisfiable", f"bytes */{SIZE}") == (
        answer.status_code,
        answer.json()["code"],
        answer.headers["Content-Range"],
    )


@pytest.mark.parametrize(
    "asked", ["bytes=9-3", "bytes=-", "bytes=0-1,4-5", "lines=1-2", "bytes=a-b", "bytes=" + "9" * 30]
)
def test_what_is_no_single_range_is_ignored(api: Api, path: str, asked: str) -> None:
    assert (200, SIZE) == (lambda a: (a.status_code, len(a.content)))(api.client.get(path, headers={"Range": asked}))


def test_conditions(api: Api, path: str) -> None:
    part = {"Range": "bytes=0-9"}
    assert 206 == api.client.get(path, headers=part | {"If-Range": TAG}).status_code
    assert 200 == api.client.get(path, headers=part | {"If-Range": '"other"'}).status_code
    assert 200 == api.client.get(path, headers=part | {"If-Range": f"W/{TAG}"}).status_code
    for tags in (TAG, f"W/{TAG}", f'"x", {TAG}', "*"):
        assert 304 == api.client.get(path, headers={"If-None-Match": tags}).status_code
    assert 200 == api.client.get(path, headers={"If-None-Match": '"x"'}).status_code
    assert 200 == api.client.head(path, headers=part).status_code


def test_a_file_that_is_gone_is_our_fault(api: Api, path: str) -> None:
    api.service.blobs.delete("sha256:" + TAG.strip('"'))
    answer = api.client.get(path)
    assert (503, "storage_unavailable") == (answer.status_code, answer.json()["code"])


def test_ranges_of_an_empty_file() -> None:
    assert parse_range("bytes=-", 0) is None
    with pytest.raises(EspalierError, match="range_not_satisfiable"):
        parse_range("bytes=0-", 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.onnx", "net"),
        ("../../etc/passwd", "passwd"),
        ("C:\\models\\net.v2.onnx", "net.v2"),
        ('a"b;c\r\nd.onnx', "a_b_c__d"),
        ("", "model"),
        ("...", "model"),
        (".onnx", "onnx"),
        ("Netz ü.onnx", "Netz ü"),
        ("x" * 500 + ".onnx", "x" * 100),
    ],
)
def test_names_that_are_safe_to_save(name: str, expected: str) -> None:
    assert expected == safe_stem(name)


def test_a_name_in_two_spellings() -> None:
    assert "attachment; filename=\"ue_.onnx\"; filename*=UTF-8''ue%C3%BC.onnx" == disposition("ueü.onnx", inline=False)
    assert 'inline; filename="a.html"' == disposition("a.html", inline=True)


@pytest.mark.parametrize("form", ["json", "html", "md"])
def test_a_report_by_its_suffix(api: Api, path: str, form: str) -> None:
    answer = api.client.get(path.replace("artifact", f"report.{form}"))
    assert (200, REPORTS[form]) == (answer.status_code, answer.content)
    assert f'inline; filename="net.report.{form}"' == answer.headers["Content-Disposition"]
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert 404 == api.client.get(path.replace("artifact", "report.pdf")).status_code


@pytest.mark.parametrize(
    ("accept", "form", "media"),
    [
        (None, "json", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "html", "text/html; charset=utf-8"),
        ("text/markdown", "md", "text/markdown; charset=utf-8"),
    ],
)
def test_a_report_by_what_the_caller_accepts(api: Api, path: str, accept: str | None, form: str, media: str) -> None:
    headers = {"Accept": accept} if accept else {}
    answer = api.client.get(path.replace("artifact", "report"), headers=headers)
    assert (REPORTS[form], media, "Accept") == (answer.content, answer.headers["Content-Type"], answer.headers["Vary"])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", "a/x"),
        ("*/*", "a/x"),
        ("b/*", "b/y"),
        ("a/x;q=0.1, b/y;q=0.2", "b/y"),
        ("*/*, a/x;q=0", "b/y"),
        ("b/y;q=wrong, a/*;q=0.1", "a/x"),
        (" , ,", "a/x"),
    ],
)
def test_what_is_preferred(header: str, expected: str) -> None:
    assert expected == preferred(header, ("a/x", "b/y"))


@pytest.mark.parametrize("header", ["image/png", "a/x;q=0, b/y;q=0", "a/z", "*/*;q=0", "b/y;q=wrong", "x"])
def test_what_takes_none_of_ours_is_refused(header: str) -> None:
    with pytest.raises(EspalierError, match="takes none of a/x, b/y") as caught:
        preferred(header, ("a/x", "b/y"))
    assert "not_acceptable" == caught.value.code


FURTHER = {"curve.csv": b"share,score\n", "model.c": b"int main", "drawing.svg": b"<svg/>", "weights.data": b"1234"}


@pytest.fixture
def listed(api: Api) -> str:
    """The list of files of a job that made more than the usual."""
    job_id = api.submit()
    api.succeed(job_id, FURTHER)
    return f"/jobs/{job_id}/artifacts"


def test_every_file_is_listed_and_fetched_by_its_name(api: Api, listed: str) -> None:
    expected = {"artifact.onnx": ARTIFACT, **{f"report.{form}": data for form, data in REPORTS.items()}, **FURTHER}
    told = api.client.get(listed).json()["artifacts"]
    assert list(expected) == [one["name"] for one in told]
    types = {}
    for one in told:
        answer = api.client.get(f"{listed}/{one['name']}")
        content = expected[one["name"]]
        assert (200, content) == (answer.status_code, answer.content)
        assert (len(content), hashlib.sha256(content).hexdigest()) == (one["bytes"], one["sha256"])
        assert f'"{one["sha256"]}"' == answer.headers["ETag"]
        assert one["media_type"] == answer.headers["Content-Type"]
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        types[one["name"]] = (one["media_type"], answer.headers["Content-Disposition"])
    assert ("text/csv; charset=utf-8", 'attachment; filename="curve.csv"') == types["curve.csv"]
    assert ("image/svg+xml", 'attachment; filename="drawing.svg"') == types["drawing.svg"]
    assert ("application/octet-stream", 'attachment; filename="weights.data"') == types["weights.data"]
    assert ("text/html; charset=utf-8", 'inline; filename="report.html"') == types["report.html"]


def test_a_named_file_has_tags_ranges_and_a_head(api: Api, listed: str) -> None:
    path, content = f"{listed}/curve.csv", FURTHER["curve.csv"]
    part = api.client.get(path, headers={"Range": "bytes=6-10"})
    assert (206, b"score", digest(b"score")) == (part.status_code, part.content, part.headers["Content-Digest"])
    assert digest(content) == part.headers["Repr-Digest"]
    head = api.client.head(path)
    assert (200, b"", str(len(content))) == (head.status_code, head.content, head.headers["Content-Length"])
    assert 304 == api.client.get(path, headers={"If-None-Match": head.headers["ETag"]}).status_code
    assert 416 == api.client.get(path, headers={"Range": "bytes=99-"}).status_code


@pytest.mark.parametrize("name", ["curve.csw", "..%2f..%2fetc%2fpasswd", "files.json", "%00", "x" * 500])
def test_a_name_of_no_file(api: Api, listed: str, name: str) -> None:
    answer = api.client.get(f"{listed}/{name}")
    assert (404, "not_found") == (answer.status_code, answer.json()["code"])
    assert ("did you mean 'curve.csv'" in answer.text) == (name == "curve.csw")


def test_no_list_before_the_end_nor_after_a_failure_nor_for_others(api: Api) -> None:
    job_id = api.submit()
    for path in (f"/jobs/{job_id}/artifacts", f"/jobs/{job_id}/artifacts/artifact.onnx"):
        answer = api.client.get(path)
        assert (409, "job_not_finished") == (answer.status_code, answer.json()["code"])
    api.fail(job_id)
    assert "job_has_no_result" == api.client.get(f"/jobs/{job_id}/artifacts").json()["code"]
    assert 404 == api.client.get("/jobs/" + "0" * 32 + "/artifacts").status_code


def test_deleting_the_job_deletes_them(api: Api, listed: str) -> None:
    job_id = listed.split("/")[2]
    assert f"/jobs/{job_id}/artifacts" == api.client.get(f"/jobs/{job_id}").json()["links"]["artifacts"]
    assert 8 == sum(name.startswith("blobs/") for name in api.files())
    assert 204 == api.client.delete(f"/jobs/{job_id}").status_code
    assert [] == [name for name in api.files() if name.startswith("blobs/")]
