"""Tensors whose numbers lie outside the model's own message: brought inside, or to the shelf where they are large.

In: a model as it was read, the files that were sent with it, and a shelf. Out: the same model, in which nothing is left
outside but what is on the shelf. Refused: locations without a file, ranges beyond its end, tensors of another size than
their shape says. Locations are keys of the files that were sent, never paths.
"""

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx.external_data_helper import uses_external_data

from schemas.errors import EspalierError
from worker.engine.shelf import Place, Shelf, place_of, refer

Span = tuple[str, int, int]  # location, offset, length
OVERLAP = 2  # times the size of the files that tensors may take in all, where some of them share bytes
PLACE_KEYS = ("location", "offset", "length")
NUMBERS = frozenset(kind.value for kind in ir.DataType) - {ir.DataType.UNDEFINED.value, ir.DataType.STRING.value}


def tensors(message: Any) -> "list[onnx.TensorProto]":
    """Every tensor of a model, in subgraphs, attributes and functions too."""
    found: list[onnx.TensorProto] = []
    graphs = [message.graph]
    nodes = [node for function in message.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            found += graph.initializer
            found += [part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices)]
            nodes += graph.node
            continue
        for attr in nodes.pop().attribute:
            found += [attr.t] if attr.HasField("t") else []
            found += attr.tensors
            graphs += [attr.g] if attr.HasField("g") else []
            graphs += attr.graphs
    return found


def bring_inside(proto: onnx.ModelProto, external: Mapping[str, Path], shelf: Shelf, name: str) -> None:
    """Take in what lies in the files that were sent, in place."""
    sent = [one for one in tensors(proto) if uses_external_data(one) and not shelf.holds(_location(one))]
    missing = sorted({_location(tensor) for tensor in sent} - set(external))
    if missing:
        raise EspalierError(
            "model_external_data_missing",
            f"tensors live in files that were not sent: {', '.join(missing[:5])}",
            where=name,
        )
    attributes = (attr for node in proto.graph.node for attr in node.attribute if attr.HasField("t"))
    _shelve((*proto.graph.initializer, *(attr.t for attr in attributes)), external, shelf, name)
    for tensor in sent:
        if not shelf.holds(_location(tensor)):
            location, offset, length = _span(tensor, external, name)
            with external[location].open("rb") as file:
                file.seek(offset)
                _hold(tensor, file.read(length))


def _shelve(near: Iterable[onnx.TensorProto], external: Mapping[str, Path], shelf: Shelf, name: str) -> None:
    """Tensors of the main graph: large ones go to the shelf, or are there already."""
    taken: dict[Span, Place] = {}
    room = OVERLAP * sum(path.stat().st_size for path in external.values())
    for tensor in near:
        if not uses_external_data(tensor):
            continue
        if not shelf.holds(_location(tensor)):
            span = _span(tensor, external, name)
            if not shelf.wants(span[2]):
                continue
            if span not in taken:  # several tensors may share one range
                room -= span[2]
                if room < 0:
                    raise EspalierError("model_invalid", "its tensors share the external data by pieces", where=name)
                taken[span] = shelf.take(external[span[0]], *span[1:])
            refer(tensor, taken[span])
        _check_size(tensor, shelf, name)


def _check_size(tensor: onnx.TensorProto, shelf: Shelf, name: str) -> None:
    """A tensor on the shelf has the bytes that its shape asks for. What is no array of whole bytes is held."""
    where = f"{name}: tensor {tensor.name!r}"
    if len(tensor.external_data) != len(PLACE_KEYS) or tensor.raw_data:
        raise EspalierError("model_invalid", "it holds its numbers twice", where=where)
    place = place_of(tensor)
    assert place is not None, "it names a place"
    kind = ir.DataType(tensor.data_type) if tensor.data_type in NUMBERS else None
    if kind is None or kind.bitwidth < 8:
        _hold(tensor, b"".join(shelf.blocks(place)))
    elif prod(tensor.dims) * kind.itemsize != place.length or min(tensor.dims, default=0) < 0:
        detail = f"its shape {list(tensor.dims)} of {kind.name} is not one of {place.length:,} bytes"
        raise EspalierError("model_invalid", detail, where=where)


def _span(tensor: onnx.TensorProto, external: Mapping[str, Path], name: str) -> Span:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    where = f"{name}: tensor {tensor.name!r}"
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0) or 0)
    except ValueError:
        raise EspalierError(
            "model_invalid", "offset or length of its external data is no number", where=where
        ) from None
    size = external[_location(tensor)].stat().st_size
    length = length or size - offset
    if offset < 0 or length < 0 or offset + length > size:
        raise EspalierError(
            "model_invalid", f"it wants bytes {offset} to {offset + length} of a file of {size}", where=where
        )
    return _location(tensor), offset, length


def _hold(tensor: onnx.TensorProto, numbers: bytes) -> None:
    tensor.raw_data = numbers
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
