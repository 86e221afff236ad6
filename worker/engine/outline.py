"""A model file is read without its large tensors: protobuf holds a message as a whole, which takes several times the
size of the file.

In: a model file, and a shelf. Out: the model, its large initializers and Constants taken to the shelf. Refused: a file
that does not parse (`DecodeError`, as protobuf raises it), and more than protobuf parses (`model_too_large`).
"""

import mmap
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError

from schemas.errors import EspalierError
from worker.engine.shelf import Place, Shelf, refer

GRAPH: Final = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
INITIALIZER: Final = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
RAW: Final = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
# Which fields lead to tensors: a message's kind and a field of it -> the kind of what is inside. Functions and
# subgraphs are left out: what is in there is rarely large, and stays in memory.
WAY: Final = {
    ("model", GRAPH): "graph",
    ("graph", INITIALIZER): "tensor",
    ("graph", onnx.GraphProto.DESCRIPTOR.fields_by_name["node"].number): "node",
    ("node", onnx.NodeProto.DESCRIPTOR.fields_by_name["attribute"].number): "attribute",
    ("attribute", onnx.AttributeProto.DESCRIPTOR.fields_by_name["t"].number): "tensor",
}
VARINT, BYTES = 0, 2
MOST_BYTES: Final = (1 << 31) - 1  # of one message
FIXED: Final = {1: 8, 5: 4}  # bytes by wire type


def read_model(path: Path, shelf: Shelf, name: str) -> onnx.ModelProto:
    """The model in a file, which people call `name`. Tensors that the shelf wants name places on it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        pieces = _Reader(path, text, shelf).message("model", 0, len(text)) if shelf.wants(len(text)) else [text]
        if sum(map(len, pieces)) > MOST_BYTES:
            detail = f"it takes more than {MOST_BYTES:,} bytes without its large tensors"
            raise EspalierError("model_too_large", detail, where=name)
        proto = onnx.ModelProto()
        proto.ParseFromString(b"".join(pieces))
    return proto


class _Reader:
    """Walks the wire format (https://protobuf.dev/programming-guides/encoding) without taking in what is large."""

    def __init__(self, path: Path, text: mmap.mmap, shelf: Shelf) -> None:
        self.path = path
        self.text = text
        self.shelf = shelf

    def message(self, kind: str, start: int, end: int) -> list[bytes]:
        """The bytes of a message, with large tensors referred to."""
        pieces: list[bytes] = []
        since = at = start
        while at < end:
            tag, value = self._varint(at, end)
            size, value = self._size(tag & 7, value, end)
            inside = WAY.get((kind, tag >> 3)) if tag & 7 == BYTES else None
            raw = kind == "tensor" and tag >> 3 == RAW and tag & 7 == BYTES
            if (inside or raw) and self.shelf.wants(size):
                pieces.append(self.text[since:at])
                if inside:
                    found = b"".join(self.message(inside, value, value + size))
                    pieces += [varint(tag), varint(len(found)), found]
                else:
                    pieces.append(_reference(self.shelf.take(self.path, value, size)))
                since = value + size
            at = value + size
        pieces.append(self.text[since:end])
        return pieces

    def _size(self, wire: int, at: int, end: int) -> tuple[int, int]:
        """How long a field's value is, and where it starts."""
        if wire == VARINT:
            return self._varint(at, end)[1] - at, at
        size, at = self._varint(at, end) if wire == BYTES else (FIXED.get(wire, end), at)
        if at + size > end:
            raise DecodeError("a field ends after the message that holds it")
        return size, at

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number, and where the next byte stands."""
        number = 0
        for place in range(at, min(at + 10, end)):
            number |= (self.text[place] & 0x7F) << 7 * (place - at)
            if self.text[place] < 0x80:
                return number, place + 1
        raise DecodeError("a number without an end")


def _reference(place: Place) -> bytes:
    tensor = onnx.TensorProto()
    refer(tensor, place)
    text: bytes = tensor.SerializeToString()
    return text


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
