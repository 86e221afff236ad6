"""C from a model: every size fixed to that of a sample, then the generator, then the arena.

In: an ONNX model, a sample, and the shapes of its inputs and outputs. Out: a `Program`. Refused
(`device_operator_unsupported`): operators that the generator does not know, and sizes that depend on the data.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import onnx

from schemas.errors import EspalierError
from worker.engine import surgery
from worker.engine.embedded.program import Program, planned
from worker.engine.execute import Executor
from worker.engine.graph import Array, Graph, freeze
from worker.engine.load import load
from worker.engine.observe import see

NAMED = re.compile(r"op_type=(\w+)|Unsupported op (?:ai\.onnx\.)?([\w.:]+)")
WORDS = 300
SIZES = ("Shape", "Size")

Shapes = Mapping[str, tuple[int, ...]]


def generate(proto: onnx.ModelProto, feed: Mapping[str, Array], shapes: Shapes, folder: Path) -> Program:
    """The program of one model at these sizes."""
    # Slow to import, and part of an extra: only jobs that ask for it need it.
    from emx_onnx_cgen.compiler import Compiler, CompilerOptions

    options = CompilerOptions(
        large_temp_threshold_bytes=0,  # no heap
        large_weight_threshold=0,  # no weights in files
        restrict_arrays=False,  # operators compute in place
    )
    model = settled(fixed(proto, shapes), feed, folder)
    try:
        source = Compiler(options).compile(model)
    except Exception as error:  # the generator raises many types, all of them about this model
        text = " ".join(str(error).split())[:WORDS] or type(error).__name__
        named = NAMED.search(text)
        raise EspalierError(
            "device_operator_unsupported",
            f"the generator of C says: {text}",
            where=(named[1] or named[2]) if named else "",
        ) from None
    return planned(source)


def fixed(proto: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """The model with every input and output at its size; what lies between is left to be found."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    del model.graph.value_info[:]
    held = {tensor.name for tensor in model.graph.initializer}
    for one in [one for one in model.graph.input if one.name in held]:
        model.graph.input.remove(one)
    for one in (*model.graph.input, *model.graph.output):
        shape = one.type.tensor_type.shape
        shape.SetInParent()
        del shape.dim[:]
        for size in shapes[one.name]:
            shape.dim.add().dim_value = size
    return model


def settled(proto: onnx.ModelProto, feed: Mapping[str, Array], folder: Path) -> onnx.ModelProto:
    """With every size known, what is computed from sizes alone is a constant, and every value has its type and shape:
    as seen while the sample runs, for inference does not find them all."""
    path = folder / "fixed.onnx"
    path.write_bytes(proto.SerializeToString())
    loaded = load(path, {}, path.name).model
    graph = freeze(loaded)
    seen = see(Executor(graph), feed)
    model = surgery.to_proto(loaded)
    found = {name: seen.small[name] for name in _from_sizes(graph) if name in seen.small}
    kept = [node for node in model.graph.node if not set(filter(None, node.output)) <= set(found)]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in found.items())
    del model.graph.value_info[:]
    inner = {name for node in kept for name in node.output if name in seen.shapes}
    inner -= {one.name for one in model.graph.output} | set(found)
    model.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(seen.dtypes[name]), seen.shapes[name]
        )
        for name in sorted(inner)
    )
    return model


def _from_sizes(graph: Graph) -> set[str]:
    """Values that follow from constants and from the sizes of others."""
    known = set(graph.constants)
    for op in graph.ops:
        sized = op.key in SIZES or all(not name or name in known for name in (*op.inputs, *op.captures))
        if sized and not op.key.startswith("Random"):
            known.update(filter(None, op.outputs))
    return known - set(graph.constants) - {port.name for port in graph.outputs}
