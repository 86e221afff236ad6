"""The bytes: content-addressed blobs and small documents, in a folder or in S3.

In: chunks, files, names `sha256:<hex>`, keys. Out: sizes, chunks, paths. Refused: names that are not hashes
(`blob_name_invalid`), content that is not what its name says (`blob_hash_mismatch`), and whatever the disk or the
object store cannot do (`storage_unavailable`). What exists is whole: it is written aside, synced and only then named.

A caller that adds a blob refers to it in Redis first (`JobStore.add_blob` or `hold_blob`) and puts the file in its
place afterwards (`commit`): the other way round, somebody who is just deleting the same content would take the new
file away.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from schemas.errors import EspalierError
from state.settings import Settings

CHUNK_BYTES = 1024 * 1024
UNLOCKED_SECONDS = 60.0  # far longer than from the making of a file to its lock
BLOB_NAME = re.compile(r"sha256:[0-9a-f]{64}")


class BlobStore(Protocol):
    """What both kinds of storage can do."""

    def writer(self) -> "BlobWriter":
        """A new blob, written chunk by chunk."""

    def exists(self, sha: str) -> int | None:
        """The size of a blob, or None."""

    def read(self, sha: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `end`, in chunks."""

    def local_path(self, sha: str, folder: Path) -> Path:
        """A file with the content, to be read only: linked or fetched into `folder`, whatever becomes of the blob."""

    def put_file(self, path: Path) -> tuple[str, int]:
        """Keep a copy of a file; its name and size."""

    def place(self, path: Path, sha: str) -> None:
        """Move a complete, synced file in as the content of `sha`."""

    def delete(self, sha: str) -> None:
        """Remove a blob; one that is not there is no failure."""

    def put_document(self, key: str, data: bytes) -> None:
        """Write or replace a small document; it is on disk when this returns."""

    def get_document(self, key: str) -> bytes | None:
        """A document, or None."""

    def list_documents(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, which ends in a slash."""

    def delete_documents(self, prefix: str) -> None:
        """Remove all documents below a prefix, which ends in a slash."""

    def check(self) -> None:
        """Raises `storage_unavailable` where nothing can be written."""


def open_blobs(settings: Settings) -> BlobStore:
    """The storage that the settings name."""
    if settings.blobs_url:
        from state.object_blobs import ObjectBlobs  # obstore is needed for object stores alone

        return ObjectBlobs.from_url(settings.blobs_url, settings.home)
    return LocalBlobs(settings.home)


def blob_key(sha: str) -> str:
    """Where a blob lies: `blobs/<first two digits>/<hex>`."""
    if not BLOB_NAME.fullmatch(sha):
        raise EspalierError("blob_name_invalid", f"{sha[:100]!r}", where="blob")
    digits = sha.removeprefix("sha256:")
    return f"blobs/{digits[:2]}/{digits}"


def submit_key(job_id: str) -> str:
    """The document that is on disk before the caller hears of the job."""
    return f"jobs/{job_id}/submit.json"


def result_key(job_id: str) -> str:
    """The document that is on disk before Redis hears how the job ended."""
    return f"jobs/{job_id}/result.json"


def hash_file(path: Path) -> tuple[str, int]:
    """The blob name and the size of a file."""
    with stored(path.name), path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", file.tell()


@contextmanager
def stored(what: str) -> Iterator[None]:
    """Whatever the disk cannot do is one failure: the storage is unavailable."""
    try:
        yield
    except OSError as error:
        detail = f"{type(error).__name__}: {error.strerror or error}"
        raise EspalierError("storage_unavailable", detail, where=what) from error


class BlobWriter:
    """A blob in the making: a file in `tmp/` that `commit` puts in its place. Leaving the `with` block drops it."""

    def __init__(self, store: BlobStore, folder: Path) -> None:
        self._store = store
        self._hash = hashlib.sha256()
        self.bytes = 0
        self._synced = False
        self.path = folder / f"upload-{secrets.token_hex(16)}"
        with stored("tmp"):
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO | None = self.path.open("xb")
            fcntl.flock(self._file, fcntl.LOCK_EX)  # until it is in its place: see `sweep_uploads`

    @property
    def sha(self) -> str:
        """The name of what was written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, chunk: bytes) -> None:
        """Add a chunk."""
        assert self._file is not None
        assert not self._synced
        with stored("tmp"):
            self._file.write(chunk)
        self._hash.update(chunk)
        self.bytes += len(chunk)

    def commit(self, expected_sha: str | None = None) -> tuple[str, int]:
        """Put the blob in its place; its name and size. Refuses content that is not `expected_sha`."""
        if expected_sha is not None and expected_sha != self.sha:
            self.abort()
            raise EspalierError("blob_hash_mismatch", f"the body hashes to {self.sha}", where=expected_sha)
        self.sync()
        self._store.place(self.path, self.sha)
        self._close()
        return self.sha, self.bytes

    def sync(self) -> None:
        """What was written is on disk, and nothing more is written."""
        assert self._file is not None
        with stored("tmp"):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._synced = True

    def abort(self) -> None:
        """Forget what was written; does nothing after `commit`."""
        self._close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


def sweep_uploads(home: Path, now: float) -> list[str]:
    """Remove uploads whose writer died; their names. A living writer holds a lock, a young file perhaps not yet."""
    removed = []
    for path in sorted((home / "tmp").glob("upload-*")):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if now - os.fstat(file.fileno()).st_mtime > UNLOCKED_SECONDS:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed.append(path.name)
    return removed


class LocalBlobs:
    """Blobs and documents in one folder. Several processes may share it."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()

    def writer(self) -> BlobWriter:
        return BlobWriter(self, self.home / "tmp")

    def exists(self, sha: str) -> int | None:
        with stored(sha), contextlib.suppress(FileNotFoundError):
            return (self.home / blob_key(sha)).stat().st_size
        return None

    def read(self, sha: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        path = self.home / blob_key(sha)
        try:
            file = path.open("rb")
        except FileNotFoundError:
            raise EspalierError("blob_not_found", "its file is gone", where=sha) from None
        with stored(sha), file:
            file.seek(start)
            left = (path.stat().st_size if end is None else end) - start
            while left > 0 and (chunk := file.read(min(left, CHUNK_BYTES))):
                left -= len(chunk)
                yield chunk

    def local_path(self, sha: str, folder: Path) -> Path:
        # A link of the caller's own: the same content, uploaded again meanwhile, replaces the blob's file, and a
        # process that is confined to the old one could not open the new one.
        blob, own = self.home / blob_key(sha), folder / sha.removeprefix("sha256:")
        try:
            os.link(blob, own)
        except FileExistsError:
            pass
        except FileNotFoundError:
            raise EspalierError("blob_not_found", "its file is gone", where=sha) from None
        except OSError:
            return blob  # a file system without links
        return own

    def put_file(self, path: Path) -> tuple[str, int]:
        with self.writer() as writer, stored(path.name), path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                writer.write(chunk)
            return writer.commit()

    def place(self, path: Path, sha: str) -> None:
        # Always replaced, never skipped because it exists: see the module's docstring.
        self._rename(path, self.home / blob_key(sha))

    def delete(self, sha: str) -> None:
        with stored(sha):
            (self.home / blob_key(sha)).unlink(missing_ok=True)

    def put_document(self, key: str, data: bytes) -> None:
        with self.writer() as writer:
            writer.write(data)
            writer.sync()
            self._rename(writer.path, self._document(key))

    def get_document(self, key: str) -> bytes | None:
        with stored(key), contextlib.suppress(FileNotFoundError):
            return self._document(key).read_bytes()
        return None

    def list_documents(self, prefix: str) -> Iterator[str]:
        for path in sorted(self._document(prefix).rglob("*")):
            if path.is_file():
                yield path.relative_to(self.home).as_posix()

    def delete_documents(self, prefix: str) -> None:
        folder = self._document(prefix)
        with stored(prefix):
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()

    def check(self) -> None:
        with self.writer() as writer:
            writer.write(b"0" * 4096)
            writer.sync()

    def _document(self, key: str) -> Path:
        path = (self.home / key).resolve()
        assert path.is_relative_to(self.home), key
        return path

    def _rename(self, source: Path, target: Path) -> None:
        with stored(target.name):
            for folder in (target.parent.parent, target.parent):
                if not folder.is_dir():
                    folder.mkdir(parents=True, exist_ok=True)
                    _sync_folder(folder.parent)
            source.replace(target)
            _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """A rename is only safe once its folder is on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
