"""A model becomes a file, or two: the message is written piece by piece, and never stands in memory as a whole.

In: a model whose large initializers name places on a shelf. Out: one file, up to the 2 GiB that protobuf allows; beyond
them, or where it is asked for, the file and another one for the weights. That one is named after its content: models
that are saved side by side do not overwrite each other's. Nothing is refused.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import Message

from schemas.files import weights_name
from worker.engine.outline import BYTES, GRAPH, INITIALIZER, MOST_BYTES, RAW, varint
from worker.engine.shelf import Place, Shelf, place_of, refer

LEAST_APART: Final = 1024  # bytes; what is smaller stays in the model's own file
ALIGNMENT: Final = 4096


def write_model(proto: onnx.ModelProto, shelf: Shelf, path: Path, *, apart: bool) -> Path | None:
    """Write it, and say where its weights are if they are not in the same file."""
    size = proto.ByteSize() + sum(place.length for one in proto.graph.initializer if (place := place_of(one)))
    if apart or size > MOST_BYTES:
        return _in_two(proto, shelf, path)
    with path.open("wb") as file:
        file.writelines(whole(proto, shelf))
    return None


def _in_two(proto: onnx.ModelProto, shelf: Shelf, path: Path) -> Path | None:
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    places: list[tuple[onnx.TensorProto, int, int]] = []
    hasher, end = hashlib.sha256(), 0
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        for tensor in model.graph.initializer:
            place = place_of(tensor)
            if place is None and len(tensor.raw_data) < LEAST_APART:
                continue
            length = len(tensor.raw_data) if place is None else place.length
            for block in (bytes(-end % ALIGNMENT), *([tensor.raw_data] if place is None else shelf.blocks(place))):
                hasher.update(block)
                file.write(block)
            places.append((tensor, end + -end % ALIGNMENT, length))
            end += -end % ALIGNMENT + length
    if not places:
        part.unlink()
        path.write_bytes(_bytes(model))
        return None
    weights = part.replace(path.with_name(weights_name(hasher.hexdigest())))
    for tensor, offset, length in places:
        refer(tensor, Place(weights.name, offset, length))
    path.write_bytes(_bytes(model))
    return weights


def whole(proto: onnx.ModelProto, shelf: Shelf) -> Iterator[bytes]:
    """The model with its initializers inside, as protobuf writes it with `deterministic=True`."""
    graph = proto.graph
    if not any(map(place_of, graph.initializer)):
        yield _bytes(proto)
        return
    before, after = _fields(graph, 0, INITIALIZER), _fields(graph, INITIALIZER + 1)
    heads = [_head(tensor) for tensor in graph.initializer]
    sizes = [len(head) + (place.length if place else 0) + len(tail) for head, place, tail in heads]
    tags = [varint(INITIALIZER << 3 | BYTES) + varint(size) for size in sizes]
    yield _fields(proto, 0, GRAPH)
    yield varint(GRAPH << 3 | BYTES) + varint(len(before) + sum(map(len, tags)) + sum(sizes) + len(after))
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
    head = _fields(inside, 0, RAW) + varint(RAW << 3 | BYTES) + varint(place.length)
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
