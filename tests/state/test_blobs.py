"""Both kinds of storage do the same: a folder, and an object store (obstore's own, in memory)."""

import hashlib
import time
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from state.blobs import BlobStore, LocalBlobs, blob_key, open_blobs, sweep_uploads
from state.object_blobs import ObjectBlobs
from state.settings import Settings
from tests.state.manifests import refused, sha

CONTENT = bytes(range(256)) * 10_000
NAME = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture(params=["folder", "objects"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return LocalBlobs(tmp_path) if request.param == "folder" else ObjectBlobs(MemoryStore(), tmp_path)


def put(blobs: BlobStore, content: bytes = CONTENT) -> str:
    with blobs.writer() as writer:
        for start in range(0, len(content), 100_000):
            writer.write(content[start : start + 100_000])
        return writer.commit()[0]


def left_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_blob_comes_back_whole_or_in_part(blobs: BlobStore) -> None:
    assert None is blobs.exists(NAME)
    assert NAME == put(blobs)
    assert len(CONTENT) == blobs.exists(NAME)
    assert CONTENT == b"".join(blobs.read(NAME))
    assert CONTENT[5:2_000_000] == b"".join(blobs.read(NAME, 5, 2_000_000))
    assert CONTENT[-3:] == b"".join(blobs.read(NAME, len(CONTENT) - 3))
    assert b"" == b"".join(blobs.read(NAME, 7, 7))


def test_the_same_content_twice_is_one_blob(blobs: BlobStore) -> None:
    assert put(blobs) == put(blobs)
    assert CONTENT == b"".join(blobs.read(NAME))


def test_content_that_is_not_what_its_name_says_is_refused_and_forgotten(blobs: BlobStore, tmp_path: Path) -> None:
    with blobs.writer() as writer:
        writer.write(CONTENT)
        with refused("blob_hash_mismatch"):
            writer.commit(sha("0"))
    assert None is blobs.exists(sha("0"))
    assert [] == left_in(tmp_path)


def test_an_upload_that_breaks_off_leaves_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    with blobs.writer() as writer:
        writer.write(CONTENT)
    assert [] == left_in(tmp_path)


def test_a_file_is_kept_and_a_local_path_leads_to_it(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    assert (NAME, len(CONTENT)) == blobs.put_file(source)
    assert CONTENT == source.read_bytes()
    folder = tmp_path / "work"
    folder.mkdir()
    assert CONTENT == blobs.local_path(NAME, folder).read_bytes()


def test_a_deleted_blob_is_gone_and_may_be_deleted_again(blobs: BlobStore, tmp_path: Path) -> None:
    put(blobs)
    blobs.delete(NAME)
    blobs.delete(NAME)
    assert None is blobs.exists(NAME)
    for look in (lambda: list(blobs.read(NAME)), lambda: blobs.local_path(NAME, tmp_path)):
        with refused("blob_not_found"):
            look()


def test_documents_are_replaced_listed_and_removed(blobs: BlobStore) -> None:
    assert None is blobs.get_document("jobs/1/submit.json")
    for key, text in (("jobs/1/submit.json", b"a"), ("jobs/1/result.json", b"b"), ("jobs/12/submit.json", b"c")):
        blobs.put_document(key, text)
    blobs.put_document("jobs/1/submit.json", b"new")
    assert b"new" == blobs.get_document("jobs/1/submit.json")
    assert ["jobs/1/result.json", "jobs/1/submit.json", "jobs/12/submit.json"] == list(blobs.list_documents("jobs/"))
    blobs.delete_documents("jobs/1/")
    assert ["jobs/12/submit.json"] == list(blobs.list_documents("jobs/"))
    blobs.delete_documents("jobs/1/")


@pytest.mark.parametrize("name", ["", "sha256:xyz", "sha256:" + "A" * 64, "../../etc/passwd", sha("a") + "/x"])
def test_names_that_are_not_hashes_are_refused(blobs: BlobStore, name: str) -> None:
    with refused("blob_name_invalid"):
        blobs.exists(name)
    assert "blobs/aa/" + "a" * 64 == blob_key(sha("a"))


def test_storage_that_cannot_be_written_says_so(blobs: BlobStore, tmp_path: Path) -> None:
    blobs.check()
    assert [] == left_in(tmp_path)
    broken = LocalBlobs(tmp_path / "file")
    (tmp_path / "file").write_text("not a folder")
    with refused("storage_unavailable", "tmp: NotADirectoryError"):
        broken.check()


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    with LocalBlobs(tmp_path).writer() as writer:
        assert writer._file is not None
        writer._file.close()
        writer._file = Path("/dev/full").open("wb", buffering=0)  # type: ignore[assignment]  # noqa: SIM115
        with refused("storage_unavailable", "tmp: OSError: No space left"):
            writer.write(b"0")


def test_settings_choose_the_storage(tmp_path: Path) -> None:
    assert isinstance(open_blobs(Settings(home=tmp_path)), LocalBlobs)
    there = open_blobs(Settings(home=tmp_path, blobs_url=(tmp_path / "objects").as_uri().replace("file:", "memory:")))
    assert isinstance(there, ObjectBlobs)
    with refused("storage_unavailable", "ESPALIER_BLOBS_URL"):
        open_blobs(Settings(home=tmp_path, blobs_url="nonsense://x"))


def test_a_local_blob_appears_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    with blobs.writer() as writer:
        writer.write(CONTENT)
        assert None is blobs.exists(writer.sha)
        writer.commit()
    assert [] == list((tmp_path / "tmp").iterdir())


def test_a_local_path_outlives_the_replacement_and_the_deletion_of_the_blob(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "home")
    folder = tmp_path / "home" / "inputs"
    folder.mkdir(parents=True)
    put(blobs)
    path = blobs.local_path(NAME, folder)
    before = path.stat().st_ino
    assert path == blobs.local_path(NAME, folder), "the same input twice"
    put(blobs)
    assert before == path.stat().st_ino
    assert before != blobs.local_path(NAME, tmp_path).stat().st_ino, "the blob itself was replaced"
    blobs.delete(NAME)
    assert CONTENT == path.read_bytes()


def test_only_uploads_whose_writer_died_are_swept(tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path)
    with store.writer() as alive:
        alive.write(b"slow")
        alive.sync()
        dead = tmp_path / "tmp" / "upload-dead"
        dead.write_bytes(b"half")
        later = time.time() + 100
        assert [] == sweep_uploads(tmp_path, time.time())
        assert ["upload-dead"] == sweep_uploads(tmp_path, later)
        assert (alive.sha, 4) == alive.commit()
