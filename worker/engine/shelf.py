"""Large tensors of a job lie in files of its own and are mapped, not held: the system may drop their pages at any time.

In: arrays, or ranges of files. Out: arrays on mapped memory, and tensors that a serialised model names by file and
place (`ir.ExternalTensor`), so that several models share one copy and onnxruntime maps the same file. What is small
stays where it is. Refused: nothing. Every file is made here, and none is opened by a name that a model gives.
"""

import ctypes
import mmap
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from worker.engine.graph import Array

LARGE: int = 1 << 18  # bytes of a tensor that is worth a place of its own
DRAWER_BYTES: int = 1 << 27  # of one file, unless a tensor is larger; each file takes one descriptor
EASE_BYTES: int = 1 << 28  # on the shelf in all, from which on pages are let go inside of stages too
BLANK_BYTES: int = 1 << 22  # of what is summed up: letting go of less, sum by sum, costs more than it gives
ALIGNMENT: Final = 4096
BLOCK: Final = 1 << 20
# Both writable, because torch warns of anything else. What is written through a copied map stays in this process.
COPIED: Final = mmap.ACCESS_COPY
WRITTEN_THROUGH: Final = mmap.ACCESS_WRITE
DOUBLE: Final = np.dtype(np.float64)
PREFIX: Final = "espalier-weights-"
TRIM: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it


@dataclass(frozen=True)
class Place:
    """Where the bytes of a tensor lie: the name of a file on the shelf, and a range of it."""

    location: str
    offset: int
    length: int


class Shelved(ir.ExternalTensor):
    """A tensor whose numbers lie on a shelf."""

    def __init__(self, folder: Path, place: Place, array: Array, dtype: ir.DataType, name: str) -> None:
        super().__init__(
            place.location, place.offset, place.length, dtype, shape=ir.Shape(array.shape), name=name, base_dir=folder
        )
        self._array = array

    def tobytes(self) -> bytes:
        return self.numpy().tobytes()


@dataclass(eq=False)
class _Drawer:
    """One file, mapped as a whole before anything is written into it."""

    path: Path
    size: int
    access: int

    def __post_init__(self) -> None:
        self.end = 0
        with self.path.open("w+b") as file:
            file.truncate(self.size)
            self.map = mmap.mmap(file.fileno(), self.size, access=self.access)
        self.bytes: np.ndarray[tuple[int], np.dtype[np.uint8]] = np.frombuffer(self.map, np.uint8)


class Shelf:
    """The files, in a folder that goes with the shelf. Without a folder nothing is large."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._drawers: dict[str, _Drawer] = {}
        self._known: dict[int, Place] = {}  # by address

    @classmethod
    def inside(cls, workdir: Path) -> "Shelf":
        """A shelf in a job's work folder."""
        return cls(workdir / "shelf")

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the files. Arrays that somebody still holds stay readable."""
        self._drawers.clear()
        self._known.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def section(self) -> Iterator[None]:
        """What comes to the shelf inside goes at the end; nobody may look at it afterwards."""
        before = set(self._drawers)
        for drawer in self._drawers.values():
            drawer.end = drawer.size
        try:
            yield
        finally:
            self._known = {address: place for address, place in self._known.items() if place.location in before}
            for location in set(self._drawers) - before:
                self._drawers.pop(location).path.unlink()

    def holds(self, location: str) -> bool:
        """Whether a tensor's location is one of our own files."""
        return location in self._drawers

    def wants(self, size: int) -> bool:
        """Whether so many bytes are better here than in memory."""
        return self.folder is not None and size >= LARGE

    def keep(self, array: Array) -> Array:
        """The same numbers, here if they are many."""
        if not self.wants(array.nbytes) or self._place(array) is not None:
            return array
        drawer, offset = self._room(array.nbytes)
        with drawer.path.open("r+b") as file:
            file.seek(offset)
            flat = array.reshape(-1) if array.flags.c_contiguous else array.flat  # never a copy of the whole
            step = BLOCK // array.itemsize
            for start in range(0, array.size, step):
                file.write(flat[start : start + step].view(np.uint8).data)
        return self.view(Place(drawer.path.name, offset, array.nbytes), array.dtype, array.shape)

    def take(self, source: Path, offset: int, length: int) -> Place:
        """Copy a range of a file."""
        drawer, start = self._room(length)
        with source.open("rb") as file, drawer.path.open("r+b") as into:
            file.seek(offset)
            into.seek(start)
            for left in range(length, 0, -BLOCK):
                into.write(file.read(min(left, BLOCK)))
        return Place(drawer.path.name, start, length)

    def blank(self, shape: tuple[int, ...], dtype: "np.dtype[np.generic]" = DOUBLE) -> Array | None:
        """Zeros to write over, which reach the file; None where they are better in memory."""
        size = dtype.itemsize * prod(shape)
        if self.folder is None or size < BLANK_BYTES:
            return None
        drawer, offset = self._room(size, WRITTEN_THROUGH)
        return self.view(Place(drawer.path.name, offset, size), dtype, shape)

    def view(self, place: Place, dtype: "np.dtype[np.generic]", shape: tuple[int, ...]) -> Array:
        """The numbers at a place."""
        held = self._drawers[place.location].bytes[place.offset : place.offset + place.length]
        array: Array = held.view(dtype).reshape(shape)
        self._known[array.ctypes.data] = place
        return array

    def tensor(self, name: str, array: Array, dtype: ir.DataType | None = None) -> ir.TensorProtocol:
        """A tensor for a model; one whose numbers are here is named by its place."""
        kept = self.keep(array) if dtype is None or dtype.bitwidth >= 8 else array
        place = self._place(kept)
        if place is None or self.folder is None:
            return ir.tensor(array, dtype=dtype, name=name)
        return Shelved(self.folder, place, kept, dtype or ir.DataType.from_numpy(kept.dtype), name)

    def array(self, tensor: onnx.TensorProto) -> Array:
        """The numbers of a tensor of a serialised model, wherever they are."""
        place = place_of(tensor)
        if place is None:
            return onnx.numpy_helper.to_array(tensor)
        return self.view(place, onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims))

    def blocks(self, place: Place) -> Iterator[bytes]:
        """The bytes at a place, read from the file."""
        with self._drawers[place.location].path.open("rb") as file:
            file.seek(place.offset)
            for left in range(place.length, 0, -BLOCK):
                yield file.read(min(left, BLOCK))

    def release(self) -> None:
        """Let go of the pages; who looks again finds them in the file. What the libraries have freed goes too: sessions
        leave hundreds of megabytes in the allocator's hands."""
        self._let_all_go()
        if self._drawers and TRIM is not None:
            TRIM(0)

    def ease(self) -> None:
        """Let go of the pages inside of a stage too, where they are many."""
        if sum(drawer.size for drawer in self._drawers.values()) >= EASE_BYTES:
            self._let_all_go()

    def _let_all_go(self) -> None:
        for drawer in self._drawers.values():
            drawer.map.madvise(mmap.MADV_DONTNEED)

    def let_go(self, array: Array) -> None:
        """Let go of the pages of one array, if it is here."""
        if (place := self._place(array)) is not None:
            size = -(-place.length // ALIGNMENT) * ALIGNMENT
            self._drawers[place.location].map.madvise(mmap.MADV_DONTNEED, place.offset, size)

    def save(self, proto: onnx.ModelProto, name: str) -> Path:
        """Write a model beside the files that it names, for libraries that want a path."""
        path = self._folder() / name
        path.write_bytes(proto.SerializeToString())
        return path

    def _place(self, array: Array) -> Place | None:
        place = self._known.get(array.ctypes.data)
        return place if place is not None and place.length == array.nbytes and array.flags.c_contiguous else None

    def _room(self, length: int, access: int = COPIED) -> tuple[_Drawer, int]:
        """Room for so many bytes, in the last file of its kind or a new one."""
        last = next((drawer for drawer in reversed(self._drawers.values()) if drawer.access == access), None)
        if last is None or last.end + length > last.size:
            path = self._folder() / f"{PREFIX}{len(self._drawers)}"
            size = -(-max(DRAWER_BYTES, length) // ALIGNMENT) * ALIGNMENT
            last = self._drawers[path.name] = _Drawer(path, size, access)
        offset = last.end
        last.end = -(-(offset + length) // ALIGNMENT) * ALIGNMENT
        return last, offset

    def _folder(self) -> Path:
        assert self.folder is not None, "nothing is kept without a folder"
        self.folder.mkdir(exist_ok=True)
        return self.folder


IN_MEMORY: Final = Shelf(None)


def place_of(tensor: onnx.TensorProto) -> Place | None:
    """Where a tensor of one of our models lies; None where its numbers are in the message."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return Place(entries["location"], int(entries["offset"]), int(entries["length"]))


def refer(tensor: onnx.TensorProto, place: Place) -> None:
    """Let a tensor name a place instead of holding its numbers."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place.location), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))
