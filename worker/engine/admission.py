"""What a model must be before anything else looks at it.

In: the model as read. Out: nothing. Refused: what onnx's checker rejects, sparse constants, a model without outputs,
inputs that state no shape or hold nothing, and layers left in training mode. An output without a shape is no fault:
onnxruntime takes it, and running the model tells.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import onnx

from schemas.errors import EspalierError
from worker.engine.cost import packed_bytes
from worker.engine.external import tensors
from worker.engine.memory import shortened
from worker.engine.shelf import Shelf, place_of

MOST_ELEMENTS = 1 << 40


def admit(proto: onnx.ModelProto, shelf: Shelf, name: str) -> None:
    """Let the model pass, or say what it lacks."""
    if any(isinstance(text, bytes) for text in _texts(proto)):
        raise EspalierError("model_unreadable", "a name in it is no text: the file is damaged", where=name)
    if not proto.graph.output:
        raise EspalierError(
            "model_invalid", "the graph has no output: nothing could be compared", where=name, hint="Export it anew."
        )
    if proto.graph.sparse_initializer or any(_holds_sparse(node) for node in _nodes(proto.graph)):
        raise EspalierError(
            "model_format_unsupported",
            "the model stores sparse constants",
            where=name,
            hint="Store them densely; sparsity compresses as well with gzip.",
        )
    held = {one.name: one for one in proto.graph.initializer}
    for node in proto.graph.node:
        if _trains(node, held):
            raise EspalierError(
                "model_format_unsupported",
                f"{node.op_type} {node.name or node.output[0]!r} is in training mode, of which runtimes make one "
                "thing or another",
                where=name,
                hint="Export the model after model.eval().",
            )
    for value in proto.graph.input:
        if value.name not in held:
            _admit_input(value, name)
    _check(proto, shelf, name)
    for tensor in tensors(proto):
        if why := _amiss(tensor):
            told = f"the constant {tensor.name!r} {why}"
            raise EspalierError("model_invalid", told, where=name, hint="The file is damaged; export it anew.")


def _admit_input(value: onnx.ValueInfoProto, name: str) -> None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return  # told where inputs are fed
    if not tensor.HasField("shape"):
        raise EspalierError(
            "model_format_unsupported",
            f"input {value.name!r} states no shape, so nobody knows how many dimensions it has",
            where=name,
            hint="State one in the graph's input, with names for open dimensions; exporters do.",
        )
    sizes = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
    if prod(sizes) > MOST_ELEMENTS:
        raise EspalierError(
            "model_invalid",
            f"input {value.name!r} has {prod(sizes):,} numbers: no machine holds them",
            where=name,
            hint="Check the sizes in the graph's input.",
        )
    if any(size <= 0 for size in sizes):
        raise EspalierError(
            "model_invalid",
            f"input {value.name!r} has a dimension of size 0 or less: it never holds anything",
            where=name,
            hint="Give an open dimension a name instead.",
        )


def _amiss(tensor: onnx.TensorProto) -> str:
    """What is wrong with a constant's numbers, which the checker does not count; empty where nothing is."""
    if place_of(tensor) is not None or tensor.data_type == onnx.TensorProto.STRING:
        return ""  # its place was measured when it came inside; texts are no numbers
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError:
        return f"is of type {tensor.data_type}, which ONNX does not have"
    if tensor.HasField("raw_data"):
        need, held = packed_bytes(prod(tensor.dims), dtype), len(tensor.raw_data)
        return "" if need == held else f"is {tuple(tensor.dims)} of {dtype}, {need:,} bytes, and holds {held:,}"
    try:
        onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        return f"cannot be read: {shortened(error)}"
    return ""


def _texts(proto: onnx.ModelProto) -> Iterator[str | bytes]:
    """Every name and description; what is not UTF-8 comes as bytes."""
    graph = proto.graph
    yield from (proto.producer_name, proto.producer_version, proto.domain, proto.doc_string, graph.name)
    yield from (part for one in proto.metadata_props for part in (one.key, one.value))
    yield from (one.domain for one in proto.opset_import)
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield from (value.name, value.doc_string, *(dim.dim_param for dim in value.type.tensor_type.shape.dim))
    for tensor in tensors(proto):
        yield from (tensor.name, tensor.doc_string)
    for node in _nodes(graph):
        yield from (node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output)
        yield from (text for attr in node.attribute for text in (attr.name, attr.ref_attr_name, attr.doc_string))


def _check(proto: onnx.ModelProto, shelf: Shelf, name: str) -> None:
    try:
        with _shapes(proto.graph.output):
            outside = any(map(place_of, tensors(proto)))
            onnx.checker.check_model(shelf.save(proto, "checked.onnx") if outside else proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise EspalierError("model_invalid", " ".join(str(error).split())[:400], where=name) from None


@contextmanager
def _shapes(values: Iterable[onnx.ValueInfoProto]) -> Iterator[None]:
    """The checker wants a shape of every output, and looks at none: for a while they have one."""
    bare = [one.type.tensor_type for one in values if one.type.HasField("tensor_type")]
    bare = [one for one in bare if not one.HasField("shape")]
    for one in bare:
        one.shape.SetInParent()
    try:
        yield
    finally:
        for one in bare:
            one.ClearField("shape")


def _nodes(graph: Any) -> Iterator[onnx.NodeProto]:
    """All nodes, those of subgraphs included."""
    waiting = [graph]
    while waiting:
        for node in waiting.pop().node:
            yield node
            for attr in node.attribute:
                waiting += [attr.g] if attr.HasField("g") else []
                waiting += attr.graphs


def _trains(node: onnx.NodeProto, held: Mapping[str, onnx.TensorProto]) -> bool:
    """onnxruntime computes it, or fuses a BatchNormalization and drops a Dropout, as it optimises."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "BatchNormalization":
        return any(attr.name == "training_mode" and attr.i for attr in node.attribute)
    mode = held.get(node.input[2]) if node.op_type == "Dropout" and len(node.input) > 2 else None
    return mode is not None and bool(onnx.numpy_helper.to_array(mode).any())


def _holds_sparse(node: onnx.NodeProto) -> bool:
    return any(attr.HasField("sparse_tensor") or attr.sparse_tensors for attr in node.attribute)
