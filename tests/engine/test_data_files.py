"""Hostile and honest data files: what is read, what is refused before memory is spent on it."""

import contextlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import EspalierError
from worker.engine.data.files import RawFile, read_file

MEBI = 1 << 20


def read(path: Path, max_bytes: int = 64 * MEBI) -> RawFile:
    return read_file(path, max_bytes=max_bytes, where="calibration")


def refusal(path: Path, max_bytes: int = 64 * MEBI) -> EspalierError:
    with pytest.raises(EspalierError) as caught:
        read(path, max_bytes)
    return caught.value


def npy_bytes(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def header_only(shape: str, descr: str = "<f4", tail: bytes = b"") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + tail


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_gives_what_numpy_wrote(tmp_path, save):
    arrays = {
        "a": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "b": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "empty": np.empty((0, 7)),
        "scalar": np.float32(3),
    }
    save(tmp_path / "x.npz", **arrays)
    got = read(tmp_path / "x.npz")
    assert got.kind == "npz"
    assert list(got.arrays) == list(arrays)
    for name, array in arrays.items():
        assert got.arrays[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(array, got.arrays[name])


def test_npy_is_told_by_its_content_not_its_name(tmp_path):
    (tmp_path / "x.csv").write_bytes(npy_bytes(np.eye(3)))
    got = read(tmp_path / "x.csv")
    assert got.kind == "npy"
    np.testing.assert_array_equal(np.eye(3), got.arrays[""])


def test_objects_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([{"a": 1}, None], object))
    assert refusal(tmp_path / "x.npz").code == "data_object_array"
    np.save(tmp_path / "x.npy", np.array([print], object))
    assert refusal(tmp_path / "x.npy").code == "data_object_array"


@pytest.mark.parametrize("array", [np.array(["a"]), np.array(["2020"], "M8[D]"), np.zeros(2, [("a", "f4")])])
def test_what_is_not_numbers_is_refused(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    assert refusal(tmp_path / "x.npy").code == "data_dtype_mismatch"


def test_a_zip_bomb_is_refused_by_its_directory(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(8 * MEBI, np.uint8))
    assert (tmp_path / "x.npz").stat().st_size < 20_000
    error = refusal(tmp_path / "x.npz", max_bytes=4 * MEBI)
    assert error.code == "data_too_large"
    assert "8,388,736 bytes" in error.failure.detail
    assert len(read(tmp_path / "x.npz", max_bytes=9 * MEBI).arrays["x"]) == 8 * MEBI


def test_many_small_arrays_count_together(tmp_path):
    np.savez(tmp_path / "x.npz", **{f"a{i}": np.zeros(1000) for i in range(10)})
    assert refusal(tmp_path / "x.npz", max_bytes=40_000).code == "data_too_large"


def test_too_many_members_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for i in range(1001):
            archive.writestr(f"{i}.npy", b"")
    assert "1,001 arrays" in refusal(tmp_path / "x.npz").failure.detail


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ("(1099511627776,)", "data_too_large"),
        ("(4, -1)", "data_unreadable"),
        ("(9223372036854775808, 0)", "data_unreadable"),
    ],
)
def test_a_header_that_claims_too_much_allocates_nothing(tmp_path, shape, code):
    (tmp_path / "x.npy").write_bytes(header_only(shape))
    assert refusal(tmp_path / "x.npy").code == code


def test_a_header_that_disagrees_with_the_bytes_is_refused(tmp_path):
    whole = npy_bytes(np.arange(100.0))
    for content in (whole[:-8], whole + b"extra"):
        (tmp_path / "x.npy").write_bytes(content)
        error = refusal(tmp_path / "x.npy")
        assert error.code == "data_unreadable"
        assert "(800 bytes)" in error.failure.detail


@pytest.mark.parametrize(
    "content", [b"\x93NUMPY\x03\x00", b"\x93NUMPY\x01\x00\xff", header_only("((1,),)"), header_only("(2,)", "x9")]
)
def test_a_broken_header_is_refused(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    assert refusal(tmp_path / "x.npy").code == "data_unreadable"


@pytest.mark.parametrize(
    "content", [header_only("(" + "1," * 9000 + ")"), header_only("(2,)", "x9"), header_only("f()")]
)
def test_the_words_on_a_broken_header_are_for_the_reader(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    detail = refusal(tmp_path / "x.npy").failure.detail
    assert "allow_pickle" not in detail
    assert " at 0x" not in detail
    assert len(detail) > len("the .npy header cannot be read: ")


def test_a_member_that_occurs_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", npy_bytes(np.ones(3)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", npy_bytes(np.zeros(3)))
    assert "'x.npy' twice" in refusal(tmp_path / "x.npz").failure.detail


def test_a_foreign_member_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("word/document.xml", b"<x/>")
    assert "word/document.xml" in refusal(tmp_path / "x.npz").failure.detail


def test_every_truncation_of_an_npz_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=500))
    whole = (tmp_path / "x.npz").read_bytes()
    for end in range(8, len(whole), 397):
        (tmp_path / "cut.npz").write_bytes(whole[:end])
        assert refusal(tmp_path / "cut.npz").code == "data_unreadable"


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.arange(50.0))
    whole = bytearray((tmp_path / "x.npz").read_bytes())
    for at in range(4, len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 0xFF
        (tmp_path / "x.bin").write_bytes(broken)
        with contextlib.suppress(EspalierError):
            read(tmp_path / "x.bin")


@pytest.mark.parametrize("head", [b"\x80\x04pickle", b"\x89HDF\r\n\x1a\n", b"PAR1data", b"\x1f\x8b\x08\x00"])
def test_foreign_formats_are_named(tmp_path, head):
    (tmp_path / "x.npy").write_bytes(head)
    assert "not .npz, .npy or .csv" in refusal(tmp_path / "x.npy").failure.detail


def test_an_empty_file_and_an_empty_archive(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"")
    assert refusal(tmp_path / "x.npy").code == "data_unreadable"
    with zipfile.ZipFile(tmp_path / "x.npz", "w"):
        pass
    assert refusal(tmp_path / "x.npz").code == "data_empty"


# ---- tables


def table(tmp_path: Path, text: str | bytes, max_bytes: int = MEBI) -> RawFile:
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(tmp_path / "t.csv", max_bytes)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_table_with_header_and_labels(tmp_path, delimiter, newline):
    lines = [["width", "Label", "height"], ["1.5", "0", "2"], ["-3e2", "1", "4"]]
    got = table(tmp_path, "\ufeff" + newline.join(delimiter.join(line) for line in lines) + newline).table
    assert got is not None
    assert got.names == ("width", "height")
    np.testing.assert_array_equal([[1.5, 2], [-300, 4]], got.features)
    assert got.labels is not None
    assert got.labels.dtype == np.int64
    np.testing.assert_array_equal([0, 1], got.labels)


def test_a_table_without_header(tmp_path):
    got = table(tmp_path, "1,2\n\n3,4\n").table
    assert got is not None
    assert got.labels is None
    assert got.features.dtype == np.int64
    np.testing.assert_array_equal([[1, 2], [3, 4]], got.features)


def test_the_running_numbers_that_pandas_writes_are_a_header(tmp_path):
    got = table(tmp_path, "0,1,2\n7,8,9\n").table
    assert got is not None
    np.testing.assert_array_equal([[7, 8, 9]], got.features)


def test_float_labels_stay_float(tmp_path):
    got = table(tmp_path, "a,y\n1,0.5\n2,1\n").table
    assert got is not None
    assert got.labels is not None
    assert got.labels.dtype == np.float64


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("a,b\n1,2\n3,x\n", "data_unreadable", "line 3, column 2 (b): 'x' is not a number"),
        ("1,2\n3\n", "data_unreadable", "line 2 has 1 columns"),
        ("1,x\n3,4\n", "data_unreadable", "line 1, column 2: 'x' is not a number"),
        ("1;2\n1,5;2\n", "data_unreadable", "line 2, column 1: '1,5' is not a number"),
        ("a,b\n1_000,2\n", "data_unreadable", "'1_000' is not a number"),
        (",a\n0,2\n", "data_unreadable", "an index, not a feature"),
        ("y,labels\n0,2\n", "data_unreadable", "several label columns"),
        ("a,b\n", "data_empty", "no line of numbers"),
        (b"\xff\xfe\x00", "data_unreadable", "nor text in UTF-8"),
        ('a,b\n"1,2\n', "data_unreadable", "line 2"),
    ],
)
def test_what_is_wrong_in_a_table_is_named_with_its_line(tmp_path, text, code, part):
    with pytest.raises(EspalierError) as caught:
        table(tmp_path, text)
    assert caught.value.code == code
    assert part in caught.value.failure.detail


def test_a_long_table_is_refused_on_the_way(tmp_path):
    with pytest.raises(EspalierError, match="by line 6"):
        table(tmp_path, "1,2\n" * 100, max_bytes=80)
