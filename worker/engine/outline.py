"""A serialised model without its large tensors, and back: protobuf holds a message as a whole, which takes several
times the size of the file.

In: a model file, and a shelf; or a model that names places on one. Out: the same model, its large initializers and
Constants taken to the shelf; or the bytes of the whole model, piece by piece. Refused: a file that does not parse
(`DecodeError`, as protobuf raises it).
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError, Message

from worker.engine.shelf import Place, Shelf, place_of, refer

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
FIXED: Final = {1: 8, 5: 4}  # bytes by wire type
MOST_BYTES: Final = (1 << 31) - 1  # of one message


def read_model(path: Path, shelf: Shelf) -> onnx.ModelProto:
    """The model in a file. Tensors that the shelf wants name places on it."""
    proto = onnx.ModelProto()
    if not shelf.wants(path.stat().st_size):
        proto.ParseFromString(path.read_bytes())
        return proto
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        proto.ParseFromString(b"".join(_Reader(path, text, shelf).message("model", 0, len(text))))
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
                    pieces += [_varint(tag), _varint(len(found)), found]
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
    return _bytes(tensor)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def whole_size(proto: onnx.ModelProto) -> int:
    """How many bytes the model takes with all its tensors inside, at most."""
    inside: int = proto.ByteSize()
    return inside + sum(place.length for one in proto.graph.initializer if (place := place_of(one)))


def whole(proto: onnx.ModelProto, shelf: Shelf) -> Iterator[bytes]:
    """The model with its initializers inside, as protobuf writes it with `deterministic=True`."""
    graph = proto.graph
    if not any(map(place_of, graph.initializer)):
        yield _bytes(proto)
        return
    before, after = _fields(graph, 0, INITIALIZER), _fields(graph, INITIALIZER + 1)
    heads = [_head(tensor) for tensor in graph.initializer]
    sizes = [len(head) + (place.length if place else 0) + len(tail) for head, place, tail in heads]
    tags = [_varint(INITIALIZER << 3 | BYTES) + _varint(size) for size in sizes]
    yield _fields(proto, 0, GRAPH)
    yield _varint(GRAPH << 3 | BYTES) + _varint(len(before) + sum(map(len, tags)) + sum(sizes) + len(after))
    yield before
    for tag, (head, place, tail) in zip(tags, heads, strict=True):
        yield tag + head
        if place is not None:
            yield from shelf.blocks(place)
        yield tail
    yield after
    yield _fields(proto, GRAPH + 1)


def _head(tensor: onnx.TensorProto) -> tuple[bytes, Place | None, bytes]:
    """What stands in a tensor before the numbers, where these are, and what stands after them."""
    place = place_of(tensor)
    if place is None:
        return _bytes(tensor), None, b""
    inside = onnx.TensorProto()
    inside.CopyFrom(tensor)
    for name in ("external_data", "data_location"):
        inside.ClearField(name)
    head = _fields(inside, 0, RAW) + _varint(RAW << 3 | BYTES) + _varint(place.length)
    return head, place, _fields(inside, RAW + 1)


def _fields(message: Message, first: int, end: int | None = None) -> bytes:
    """Those fields alone, serialised."""
    part = type(message)()
    part.CopyFrom(message)
    for field, _ in message.ListFields():
        if field.number < first or (end is not None and field.number >= end):
            part.ClearField(field.name)
    return _bytes(part)


def _bytes(message: Message) -> bytes:
    text: bytes = message.SerializeToString(deterministic=True)
    return text
