"""What a model must be before anything else looks at it.

In: the model as read. Out: nothing. Refused: what onnx's checker rejects, sparse constants, a model without outputs,
inputs that state no shape or hold nothing, and layers left in training mode. An output without a shape is no fault:
onnxruntime takes it, and running the model tells.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx

from schemas.errors import EspalierError
from worker.engine.external import tensors
from worker.engine.shelf import Shelf, place_of


def admit(proto: onnx.ModelProto, shelf: Shelf, name: str) -> None:
    """Let the model pass, or say what it lacks."""
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
    if any(dim.HasField("dim_value") and dim.dim_value == 0 for dim in tensor.shape.dim):
        raise EspalierError(
            "model_invalid",
            f"input {value.name!r} has a dimension of size 0: it never holds anything",
            where=name,
            hint="Give an open dimension a name instead of 0.",
        )


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
