"""The uploaded file becomes a normalised ONNX model.

In: the model file and the files of its external data. Out: `Loaded`: an `onnx_ir.Model` in which constants are
initializers, small shared initializers are separate, and functions are inlined. Refused: everything that is not a
valid ONNX model, with the recipe to make one; no path named inside a model is ever opened.
"""

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from schemas.errors import EspalierError
from worker.engine.expands import settle_expands
from worker.engine.fold import fold_constants
from worker.engine.formats import refuse_foreign
from worker.engine.settled import open_products, settle_sizes
from worker.engine.states import drop_zero_states

MOST_BYTES = (1 << 31) - (1 << 24)  # protobuf's limit, and room for the masks of the proof
SHARED_RANK = 1  # initializers up to this rank are shared by chance (equal biases); larger ones are tied on purpose


@dataclass(frozen=True, eq=False)
class Loaded:
    """`proto` is the model as uploaded, external data included; `model` is the normalised one."""

    proto: onnx.ModelProto
    model: ir.Model
    copies: Mapping[str, str]  # initializers made by un-sharing -> the one they were
    file_bytes: int
    gzip_bytes: int


def load(path: Path, external: Mapping[str, Path], name: str = "model") -> Loaded:
    """Read, check and normalise a model. `name` is what people call the file."""
    refuse_foreign(path, name)
    _check_size((path, *external.values()), name)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError:
        raise EspalierError(
            "model_unreadable",
            f"{path.stat().st_size:,} bytes that do not parse as ONNX: truncated, or another kind of file",
            where=name,
        ) from None
    if not proto.HasField("graph") or not proto.graph.node or not proto.ir_version:
        raise EspalierError("model_unreadable", "the file holds no ONNX graph", where=name)
    _embed_external(proto, external, name)
    _check(proto, name)
    model, copies = _normalise(proto)
    files = (path, *external.values())
    return Loaded(proto, model, copies, sum(file.stat().st_size for file in files), sum(map(gzip_bytes, files)))


def _check_size(files: Iterable[Path], name: str) -> None:
    """The result is one file, and protobuf ends at 2 GiB."""
    total = sum(file.stat().st_size for file in files)
    if total > MOST_BYTES:
        raise EspalierError(
            "model_too_large", f"the model takes {total:,} bytes; one file of {MOST_BYTES:,} is the most", where=name
        )


def gzip_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return packed_size(iter(lambda: file.read(1 << 20), b""))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def packed_size(chunks: Iterable[bytes]) -> int:
    """Bytes after gzip, which is how firmware images travel."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return sum(len(packer.compress(chunk)) for chunk in chunks) + len(packer.flush())


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


def _embed_external(proto: onnx.ModelProto, external: Mapping[str, Path], name: str) -> None:
    """Bring external tensors inside. Locations are keys of `external`, never paths."""
    outside = [tensor for tensor in tensors(proto) if uses_external_data(tensor)]
    missing = sorted({_location(tensor) for tensor in outside} - set(external))
    if missing:
        raise EspalierError(
            "model_external_data_missing",
            f"tensors live in files that were not sent: {', '.join(missing[:5])}",
            where=name,
        )
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        where = f"{name}: tensor {tensor.name!r}"
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0) or 0)
        except ValueError:
            raise EspalierError(
                "model_invalid", "offset or length of its external data is no number", where=where
            ) from None
        path = external[_location(tensor)]
        size = path.stat().st_size
        length = length or size - offset
        if offset < 0 or length < 0 or offset + length > size:
            raise EspalierError(
                "model_invalid", f"it wants bytes {offset} to {offset + length} of a file of {size}", where=where
            )
        with path.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _check(proto: onnx.ModelProto, name: str) -> None:
    if proto.graph.sparse_initializer:
        raise EspalierError(
            "model_format_unsupported",
            "the model stores sparse initializers",
            where=name,
            hint="Store them densely; sparsity compresses as well with gzip.",
        )
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise EspalierError("model_invalid", _first_lines(str(error)), where=name) from None


def _first_lines(text: str, limit: int = 400) -> str:
    return " ".join(text.split())[:limit]


def _normalise(proto: onnx.ModelProto) -> tuple[ir.Model, dict[str, str]]:
    model = ir.from_proto(proto)
    if model.functions:
        model = passes.InlinePass()(model).model
    model = passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).model
    model = passes.RemoveInitializersFromInputsPass()(model).model
    settle_sizes(model)
    left = fold_constants(model)
    if settle_expands(model):
        fold_constants(model, left)
    open_products(model)
    drop_zero_states(model)
    copies = _unshare(model.graph)
    _forward_constant_identities(model.graph)
    return model, copies


def _unshare(graph: ir.Graph) -> dict[str, str]:
    """Give every reader its own copy of a small initializer: exporters share equal ones, and a cut is not shared."""
    copies: dict[str, str] = {}
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        uses = list(value.uses())
        if tensor is None or len(tensor.shape) > SHARED_RANK or len(uses) < 2:
            continue
        for number, (node, slot) in enumerate(uses[1:], start=1):
            if node.graph is not graph:  # readers inside subgraphs keep the original
                continue
            name = f"{value.name}.{number}"
            while name in graph.initializers:
                name += "_"
            # A tensor of its own: naming a value also names its tensor, which belongs to the uploaded file.
            own = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
            copy = ir.Value(name=name, shape=value.shape, type=value.type, const_value=own)
            graph.register_initializer(copy)
            node.replace_input_with(slot, copy)
            copies[name] = str(value.name)
    return copies


def _forward_constant_identities(graph: ir.Graph) -> None:
    """Readers of Identity(initializer) read the initializer: exporters write shared weights that way."""
    outputs = {id(value) for value in graph.outputs}
    for node in list(graph):
        if node.op_type != "Identity" or node.domain not in ("", "ai.onnx") or id(node.outputs[0]) in outputs:
            continue
        source = node.inputs[0]
        if source is not None and source.name in graph.initializers:
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)
