"""Reads arrays from an uploaded file: .npz, .npy or .csv, told apart by their content, never by their name.

In: a path, the most bytes its arrays may take, and the `where` for messages. Out: `RawFile`, named numeric arrays.
Refused before numpy allocates anything: Python objects, arrays larger than the limit (by the zip directory and the
.npy headers), members that occur twice, sizes that disagree with headers, files that end too early.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from schemas.errors import EspalierError
from worker.engine.data.table import Table, read_table

CHUNK_BYTES = 1 << 24
MAX_MEMBERS = 1000
MAX_NAME_CHARS = 1000
MAX_DIM = 1 << 48
NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
FOREIGN_MAGICS = {b"\x80": "a pickle", b"\x89HDF": "HDF5", b"\x1f\x8b": "gzip", b"PAR1": "Parquet", b"%PDF": "a PDF"}
NUMBERS = "biufc"


@dataclass(frozen=True)
class RawFile:
    """What a file holds, before anyone asks whether it suits the model."""

    kind: str  # "npz", "npy" or "csv"
    arrays: Mapping[str, NDArray[np.generic]]  # an .npy's only array is called ""
    table: Table | None = None


def read_file(path: Path, *, max_bytes: int, where: str) -> RawFile:
    """The arrays of a data file, all of them numeric."""
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        raise EspalierError("data_unreadable", "the file is empty", where=where)
    if head.startswith(ZIP_MAGICS):
        return RawFile("npz", _read_npz(path, max_bytes, where))
    if head.startswith(NPY_MAGIC):
        with path.open("rb") as file:
            return RawFile("npy", {"": _read_npy(file, path.stat().st_size, max_bytes, where)})
    for magic, name in FOREIGN_MAGICS.items():
        if head.startswith(magic):
            raise EspalierError("data_unreadable", f"the file is {name}, not .npz, .npy or .csv", where=where)
    return RawFile("csv", {}, read_table(path, max_bytes=max_bytes, where=where))


def npz_members(path: Path, *, max_bytes: int, max_members: int, where: str) -> tuple[str, ...] | None:
    """The names of the arrays in an .npz, in its order, once its directory is found to be in order. None for any other
    kind of file."""
    with path.open("rb") as file:
        if not file.read(8).startswith(ZIP_MAGICS):
            return None
    with _damage_is_refused(where), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_directory(members, max_bytes, max_members, where)
        return tuple(member.filename.removesuffix(".npy") for member in members)


def read_members(
    path: Path, names: Sequence[str], *, max_bytes: int, where: str
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Arrays of an .npz in the order they are asked for, one after the other. Its directory has been looked at."""
    with _damage_is_refused(where), zipfile.ZipFile(path) as archive:
        for name in names:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as file:
                yield name, _read_npy(file, member.file_size, max_bytes, f"{where}: array {name!r}")


def _read_npz(path: Path, max_bytes: int, where: str) -> dict[str, NDArray[np.generic]]:
    names = npz_members(path, max_bytes=max_bytes, max_members=MAX_MEMBERS, where=where) or ()
    return dict(read_members(path, names, max_bytes=max_bytes, where=where))


@contextmanager
def _damage_is_refused(where: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise EspalierError("data_unreadable", f"the .npz is damaged or incomplete: {error}", where=where) from None


def _check_directory(members: list[zipfile.ZipInfo], max_bytes: int, max_members: int, where: str) -> None:
    """Judges the archive by its directory: reading a bomb's first byte is already too late."""
    if not members:
        raise EspalierError("data_empty", "the .npz holds no array", where=where)
    if len(members) > max_members:
        detail = f"the .npz holds {len(members):,} arrays; at most {max_members:,} are read"
        raise EspalierError("data_too_large", detail, where=where)
    seen: set[str] = set()
    for member in members:
        if len(member.filename) > MAX_NAME_CHARS:
            detail = f"the name {member.filename[:50]!r}... has {len(member.filename):,} characters"
            hint = f"Names of {MAX_NAME_CHARS:,} characters are read."
            raise EspalierError("data_unreadable", detail, where=where, hint=hint)
        if not member.filename.endswith(".npy"):
            detail = f"the archive holds {member.filename!r}, which is not an array"
            raise EspalierError("data_unreadable", detail, where=where, hint="Write it with numpy.savez.")
        if member.filename in seen:
            raise EspalierError("data_unreadable", f"the .npz holds {member.filename!r} twice", where=where)
        seen.add(member.filename)
    _check_size(sum(member.file_size for member in members), max_bytes, where)


def _check_size(size: int, max_bytes: int, where: str) -> None:
    if size > max_bytes:
        detail = f"the data takes {size:,} bytes once unpacked; the limit is {max_bytes:,}"
        raise EspalierError("data_too_large", detail, where=where)


def _read_npy(file: IO[bytes], size: int, max_bytes: int, where: str) -> NDArray[np.generic]:
    """One array, allocated only after its header was found to agree with the bytes that are there."""
    shape, fortran, dtype = _read_header(file, where)
    if dtype.hasobject:
        raise EspalierError("data_object_array", "the array holds Python objects (dtype object)", where=where)
    if dtype.kind not in NUMBERS:
        raise EspalierError("data_dtype_mismatch", f"the array holds {dtype}, not numbers", where=where)
    count = math.prod(shape)
    wanted = count * dtype.itemsize
    _check_size(wanted, max_bytes, where)
    if wanted != size - file.tell():
        detail = f"the header promises shape {shape} of {dtype} ({wanted:,} bytes), but {size - file.tell():,} follow"
        raise EspalierError("data_unreadable", detail, where=where, hint="The file is incomplete; write it again.")
    flat = np.empty(count, dtype)
    _fill(file, flat.view(np.uint8).data, where)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _read_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"version {version} of the .npy format is not read")
        shape, fortran, dtype = read(file)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        # numpy goes on about settings that nobody has here, and may name an object by its address.
        words = next(iter(str(error).splitlines()), "")
        detail = type(error).__name__ if not words or " at 0x" in words else words
        raise EspalierError("data_unreadable", f"the .npy header cannot be read: {detail}", where=where) from None
    if any(not 0 <= dim < MAX_DIM for dim in shape):
        raise EspalierError("data_unreadable", f"the .npy header has an impossible shape {shape}", where=where)
    return shape, fortran, dtype


def _fill(file: IO[bytes], target: memoryview, where: str) -> None:
    filled = 0
    while filled < len(target):
        chunk = file.read(min(CHUNK_BYTES, len(target) - filled))
        if not chunk:
            detail = f"the array ends after {filled:,} of {len(target):,} bytes"
            raise EspalierError("data_unreadable", detail, where=where)
        target[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
