"""Blobs and documents in an object store such as S3, through obstore.

In and out: as `state/blobs.py` says. Uploads are gathered in a local file first, because their name is their hash; a
PUT of an object store is atomic, so what exists is whole. Credentials come from the environment (`AWS_*`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from schemas.errors import EspalierError
from state.blobs import CHUNK_BYTES, BlobWriter, blob_key, hash_file, stored


class ObjectBlobs:
    """Blobs in an object store; `home` holds what is on its way there or back."""

    def __init__(self, store: ObjectStore, home: Path) -> None:
        self._objects = store
        self.home = home.resolve()

    @classmethod
    def from_url(cls, url: str, home: Path) -> "ObjectBlobs":
        """For example `s3://bucket/prefix`."""
        try:
            return cls(from_url(url), home)
        except (BaseError, ValueError) as error:
            raise EspalierError("storage_unavailable", str(error), where="ESPALIER_BLOBS_URL") from error

    def writer(self) -> BlobWriter:
        return BlobWriter(self, self.home / "tmp")

    def exists(self, sha: str) -> int | None:
        with _reached(sha):
            try:
                return obstore.head(self._objects, blob_key(sha))["size"]
            except FileNotFoundError:
                return None

    def read(self, sha: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        size = self.exists(sha)
        if size is None:
            raise EspalierError("blob_not_found", "its object is gone", where=sha)
        stop = size if end is None else min(end, size)
        if start >= stop:
            return
        with _reached(sha):
            got = obstore.get(self._objects, blob_key(sha), options={"range": (start, stop)})
            for chunk in got.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    def local_path(self, sha: str, folder: Path) -> Path:
        path = folder / sha.removeprefix("sha256:")
        with stored(sha), path.open("wb") as file:
            for chunk in self.read(sha):
                file.write(chunk)
        found, _ = hash_file(path)
        if found != sha:
            raise EspalierError("storage_unavailable", f"its object now hashes to {found}", where=sha)
        return path

    def put_file(self, path: Path) -> tuple[str, int]:
        sha, size = hash_file(path)
        self._put(blob_key(sha), path)
        return sha, size

    def place(self, path: Path, sha: str) -> None:
        self._put(blob_key(sha), path)
        with stored(sha):
            path.unlink()

    def delete(self, sha: str) -> None:
        self._delete(blob_key(sha))

    def put_document(self, key: str, data: bytes) -> None:
        self._put(key, data)

    def get_document(self, key: str) -> bytes | None:
        with _reached(key):
            try:
                return bytes(obstore.get(self._objects, key).bytes())
            except FileNotFoundError:
                return None

    def list_documents(self, prefix: str) -> Iterator[str]:
        with _reached(prefix):
            for batch in obstore.list(self._objects, prefix.rstrip("/")):
                yield from (found["path"] for found in batch)

    def delete_documents(self, prefix: str) -> None:
        for key in list(self.list_documents(prefix)):
            self._delete(key)

    def check(self) -> None:
        self._put("tmp/check", b"0")

    def _put(self, key: str, what: Path | bytes) -> None:
        with _reached(key):
            obstore.put(self._objects, key, what)

    def _delete(self, key: str) -> None:
        with _reached(key):
            try:
                obstore.delete(self._objects, key)
            except FileNotFoundError:  # some stores say so, others do not
                return


@contextmanager
def _reached(what: str) -> Iterator[None]:
    """Whatever the object store cannot do is one failure: the storage is unavailable."""
    try:
        yield
    except (BaseError, OSError) as error:
        detail = f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
        raise EspalierError("storage_unavailable", detail, where=what) from error
