"""The uploaded file becomes a normalised ONNX model.

In: the model file, the files of its external data, and a shelf for what is large. Out: `Loaded`: an `onnx_ir.Model` in
which constants are initializers, small shared initializers are separate, and functions are inlined. Refused: everything
that is not a valid ONNX model, with the recipe to make one; no path named inside a model is ever opened.
"""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from google.protobuf.message import DecodeError

from schemas.errors import EspalierError
from worker.engine.admission import admit
from worker.engine.expands import settle_expands
from worker.engine.external import bring_inside
from worker.engine.fold import fold_constants
from worker.engine.formats import refuse_foreign
from worker.engine.memory import shortened
from worker.engine.outline import read_model
from worker.engine.settled import open_products, settle_sizes
from worker.engine.shelf import IN_MEMORY, Place, Shelf
from worker.engine.states import drop_zero_states

GZIP_BLOCK = 1 << 20
GZIP_BLOCKS = 64  # of a larger file only so many are compressed, spread evenly: all of a gigabyte take a minute
INITIALIZERS_APART = 4  # the version of the format since which initializers need not be inputs
SHARED_RANK = 1  # initializers up to this rank are shared by chance (equal biases); larger ones are tied on purpose


@dataclass(frozen=True, eq=False)
class Loaded:
    """`proto` is the model as uploaded, its large tensors on the shelf; `model` is the normalised one."""

    proto: onnx.ModelProto
    model: ir.Model
    copies: Mapping[str, str]  # initializers made by un-sharing -> the one they were
    file_bytes: int
    gzip_bytes: int
    shelf: Shelf


def load(path: Path, external: Mapping[str, Path], name: str = "model", shelf: Shelf = IN_MEMORY) -> Loaded:
    """Read, check and normalise a model. `name` is what people call the file."""
    refuse_foreign(path, name)
    try:
        proto = read_model(path, shelf, name)
    except DecodeError:
        raise EspalierError(
            "model_unreadable",
            f"{path.stat().st_size:,} bytes that do not parse as ONNX: truncated, or another kind of file",
            where=name,
        ) from None
    if not proto.HasField("graph") or not proto.graph.node or not proto.ir_version:
        raise EspalierError("model_unreadable", "the file holds no ONNX graph", where=name)
    bring_inside(proto, external, shelf, name)
    admit(proto, shelf, name)
    model, copies = _normalise(proto, shelf, name)
    files = (path, *external.values())
    return Loaded(proto, model, copies, sum(file.stat().st_size for file in files), sum(map(gzip_bytes, files)), shelf)


def gzip_bytes(path: Path) -> int:
    """Bytes after gzip, which is how firmware images travel; of a large file judged by a part of it."""
    size = path.stat().st_size
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    taken = packed = 0
    with path.open("rb") as file:
        for start in range(0, size, GZIP_BLOCK * max(size // (GZIP_BLOCK * GZIP_BLOCKS), 1)):
            file.seek(start)
            block = file.read(GZIP_BLOCK)
            packed += len(packer.compress(block))
            taken += len(block)
    packed += len(packer.flush())
    return packed if taken == size else round(packed * size / taken)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _normalise(proto: onnx.ModelProto, shelf: Shelf, name: str) -> tuple[ir.Model, dict[str, str]]:
    try:
        model = ir.from_proto(proto)
    except ir.serde.SerdeError as error:
        why = shortened(error.__cause__ or error)
        raise EspalierError("model_invalid", f"the graph cannot be read: {why}", where=name) from None
    _look_up(model.graph, shelf)
    if model.functions:
        model = passes.InlinePass()(model).model
    model = passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).model
    model = passes.RemoveInitializersFromInputsPass()(model).model
    model.ir_version = max(model.ir_version, INITIALIZERS_APART)
    settle_sizes(model)
    left = fold_constants(model, shelf)
    if settle_expands(model):
        fold_constants(model, shelf, left)
    open_products(model)
    drop_zero_states(model)
    copies = _unshare(model.graph)
    _forward_constant_identities(model.graph)
    return model, copies


def _look_up(graph: ir.Graph, shelf: Shelf) -> None:
    """Give every tensor that names a place on the shelf its numbers."""

    def found(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
        shape = tuple(int(dim) for dim in tensor.shape.numpy())
        place = Place(str(tensor.location), int(tensor.offset or 0), int(tensor.length or 0))
        return shelf.tensor(tensor.name, shelf.view(place, tensor.dtype.numpy(), shape), tensor.dtype)

    for value in graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = found(value.const_value)
    for node in graph:
        for name, attr in list(node.attributes.items()):
            if attr.type == ir.AttributeType.TENSOR and isinstance(tensor := attr.as_tensor(), ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, found(tensor))


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
