"""Blobs as downloads: entity tags, single byte ranges and digests.

In: a request and the blob it may have (ownership was checked before). Out: 200, 206 or 304. Refused: a range outside
the file (416). A range that is malformed, or of several parts, is ignored, as RFC 9110 allows; so is one whose
`If-Range` names another version. `Content-Digest` (RFC 9530) is over the bytes sent, `Repr-Digest` over the whole
file whatever was sent.
"""

import base64
import hashlib
import re
import unicodedata
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from schemas.errors import EspalierError
from schemas.job import BlobRef
from service.errors import problem_response
from state.blobs import BlobStore

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
MAX_STEM_CHARS = 100
UNKNOWN_TYPE = "application/octet-stream"
MEDIA_TYPES = {
    "c": "text/x-c; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class Download:
    ref: BlobRef
    media_type: str
    filename: str
    inline: bool = False


def media_type(name: str) -> str:
    """What a file of a result is, by its suffix."""
    return MEDIA_TYPES.get(name.rpartition(".")[2], UNKNOWN_TYPE)


def etag_of(ref: BlobRef) -> str:
    """A file's strong entity tag is its content."""
    return f'"{ref.blob.removeprefix("sha256:")}"'


def matches(header: str, etag: str) -> bool:
    """Whether an If-None-Match header names this entity tag (weak comparison, RFC 9110 13.1.2)."""
    tags = [one.strip().removeprefix("W/") for one in header.split(",")]
    return "*" in tags or etag.removeprefix("W/") in tags


def digest_header(sha256: bytes) -> str:
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """`bytes=a-b`, `bytes=a-` or `bytes=-n` as [start, end). None: not a single byte range, to be ignored."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.group(0) == "bytes=-" or max(map(len, match.groups())) > 18:
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= end:
        raise EspalierError("range_not_satisfiable", f"the file has {size} bytes; asked for {header}", where="Range")
    return start, end


def safe_stem(name: str) -> str:
    """The uploader's file name without folders, suffix and anything that a header or a shell could trip over."""
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    stem = last.rpartition(".")[0] or last
    kept = "".join(c if c.isalnum() or c in "._- " else "_" for c in stem).strip(" .")
    return kept[:MAX_STEM_CHARS] or "model"


def disposition(filename: str, *, inline: bool) -> str:
    """Content-Disposition with an ASCII name and, where that loses something, the full one (RFC 6266)."""
    kind = "inline" if inline else "attachment"
    plain = filename.encode("ascii", "replace").decode().replace("?", "_")
    extended = "" if plain == filename else f"; filename*=UTF-8''{quote(filename, safe='')}"
    return f'{kind}; filename="{plain}"{extended}'


async def send_blob(request: Request, blobs: BlobStore, download: Download) -> Response:
    """The response to a GET or HEAD for one file."""
    ref = download.ref
    etag = etag_of(ref)
    whole = digest_header(bytes.fromhex(ref.blob.removeprefix("sha256:")))
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Repr-Digest": whole,
        "Content-Disposition": disposition(download.filename, inline=download.inline),
    }
    if matches(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    try:
        span = _wanted(request, etag, ref.bytes)
    except EspalierError as error:
        path, request_id = request.url.path, request.state.request_id
        refused = problem_response(error.failure, path=path, request_id=request_id)
        refused.headers["Content-Range"] = f"bytes */{ref.bytes}"
        return refused
    if await run_in_threadpool(blobs.exists, ref.blob) is None:
        raise EspalierError("storage_unavailable", f"the file {ref.blob} is not where it was put", where=ref.blob)
    if span is None:
        headers |= {"Content-Length": str(ref.bytes), "Content-Digest": whole}
        if request.method == "HEAD":
            return Response(headers=headers, media_type=download.media_type)
        return StreamingResponse(blobs.read(ref.blob), HTTPStatus.OK, headers, download.media_type)
    start, end = span
    headers |= {
        "Content-Length": str(end - start),
        "Content-Range": f"bytes {start}-{end - 1}/{ref.bytes}",
        "Content-Digest": await run_in_threadpool(_digest_of_part, blobs, ref.blob, start, end),
    }
    parts = blobs.read(ref.blob, start, end)
    return StreamingResponse(parts, HTTPStatus.PARTIAL_CONTENT, headers, download.media_type)


def _wanted(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    headers: Headers = request.headers
    if request.method != "GET" or "range" not in headers or headers.get("if-range", etag) != etag:
        return None
    return parse_range(headers["range"], size)


def _digest_of_part(blobs: BlobStore, sha: str, start: int, end: int) -> str:
    """The part is read twice, because its digest stands in the head, before it."""
    digest = hashlib.sha256()
    for chunk in blobs.read(sha, start, end):
        digest.update(chunk)
    return digest_header(digest.digest())
