"""The streaming form parser: any order, any chunking, bounded memory, and nothing half accepted."""

import tracemalloc
from pathlib import Path

import pytest

from schemas.errors import EspalierError
from service.multipart import MAX_TEXT_BYTES, Form, FormReader, boundary_of
from state.blobs import LocalBlobs

BOUNDARY = b"fence"


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    given = f'; filename="{filename}"' if filename is not None else ""
    head = f'--fence\r\nContent-Disposition: form-data; name="{name}"{given}\r\n\r\n'
    return head.encode() + data + b"\r\n"


END = b"--fence--\r\n"


def read(tmp_path: Path, body: bytes, chunk: int = 1 << 20) -> dict[str, object]:
    """What a form holds: name and content of files, text of texts."""
    store = LocalBlobs(tmp_path)
    with Form() as form:
        reader = FormReader(form, BOUNDARY, store.writer)
        for start in range(0, len(body), chunk):
            reader.feed(body[start : start + chunk])
        reader.close()
        found: dict[str, object] = {name: bytes(text) for name, text in form.texts.items()}
        for name, one in form.files.items():
            blob, _ = one.writer.commit()
            found[name] = (one.name, b"".join(store.read(blob)))
        return found


@pytest.mark.parametrize("chunk", [1, 3, 7, 64, 1 << 20])
def test_any_chunking_gives_the_same_form(tmp_path: Path, chunk: int) -> None:
    tricky = b"\r\n--fenc\r\n--fence-\r\r\n\n--" * 3
    body = part("options", b'{"seed": 1}') + part("calibration", tricky, "c.npz") + part("model", b"\0\xff", "m.onnx")
    expected = {"options": b'{"seed": 1}', "calibration": ("c.npz", tricky), "model": ("m.onnx", b"\0\xff")}
    assert expected == read(tmp_path, body + END, chunk)


def test_the_name_loses_its_folders_and_keeps_its_letters(tmp_path: Path) -> None:
    assert {"model": ("Netz ü.onnx", b"m")} == read(tmp_path, part("model", b"m", "../a/Netz ü.onnx") + END)


def test_an_empty_file_field_is_absent(tmp_path: Path) -> None:
    assert {"model": ("m", b"1")} == read(tmp_path, part("evaluation", b"", "") + part("model", b"1", "m") + END)
    assert [] == list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (part("modle", b"1", "m") + END, "body_invalid", "did you mean 'model'"),
        (part("model", b"1", "m") * 2 + END, "body_invalid", "comes twice"),
        (part("options", b"{}") * 2 + END, "body_invalid", "comes twice"),
        (part("model", b"1", "m"), "body_invalid", "incomplete"),
        (part("model", b"1" * 999, "m")[:-500], "body_invalid", "incomplete"),
        (b"--fence\r\nContent-Type: text/plain\r\n\r\n1\r\n" + END, "body_invalid", "no field name"),
        (b"model=1", "body_invalid", "malformed"),
        (b"", "body_invalid", "incomplete"),
        (part("options", b" " * (MAX_TEXT_BYTES + 1)) + END, "payload_too_large", str(MAX_TEXT_BYTES)),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path: Path, body: bytes, code: str, says: str) -> None:
    with pytest.raises(EspalierError) as caught:
        read(tmp_path, body, 64 * 1024)
    assert code == caught.value.code
    assert says in caught.value.failure.detail
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


def peak_bytes(tmp_path: Path, keep: list[bytes] | None = None) -> int:
    """The most memory that a form of 20 MB took; with `keep`, for a reader that holds what it read."""
    store = LocalBlobs(tmp_path)
    tracemalloc.start()
    try:
        with Form() as form:
            reader = FormReader(form, BOUNDARY, store.writer)
            reader.feed(part("model", b"", "m")[:-2])
            for number in range(40):
                chunk = bytes([number]) * 500_000
                reader.feed(chunk)
                if keep is not None:
                    keep.append(chunk)
            return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    assert peak_bytes(tmp_path) < 4_000_000
    assert peak_bytes(tmp_path, keep=[]) > 20_000_000


def test_the_boundary_comes_from_the_content_type() -> None:
    assert b"a b" == boundary_of('multipart/form-data; boundary="a b"')
    with pytest.raises(EspalierError, match="no boundary"):
        boundary_of("multipart/form-data")
