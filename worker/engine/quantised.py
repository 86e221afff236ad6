"""Weights that are stored as integers and read through DequantizeLinear; activations that are rounded on their way.

In: a graph. Out: the initializer behind a weight, its real values, and the integer that stands for zero. Or in: a
model. Out: the same model without the rounding of its activations.
"""

import numpy as np
import numpy.typing as npt
import onnx

from worker.engine.graph import Array, Graph, Op


def stored(graph: Graph, name: str) -> str:
    """The initializer that holds a weight: the name itself, or what DequantizeLinear reads; else ""."""
    if name in graph.constants:
        return name
    maker = graph.producer.get(name)
    return maker.inputs[0] if maker is not None and dequantises_constant(graph, maker) else ""


def dequantises_constant(graph: Graph, op: Op) -> bool:
    return op.key == "DequantizeLinear" and op.outputs[0] in graph.static and op.inputs[0] in graph.constants


def is_quantised(graph: Graph, name: str) -> bool:
    """Whether an initializer is an integer form of real numbers."""
    return _reader(graph, name) is not None


def real(graph: Graph, name: str) -> npt.NDArray[np.float64]:
    """The real numbers that an initializer stands for."""
    array = graph.constants[name].astype(np.float64)
    op = _reader(graph, name)
    if op is None:
        return array
    scales = _along(op, graph.constants[op.inputs[1]], array.ndim).astype(np.float64)
    found: npt.NDArray[np.float64] = (array - zero(graph, name).astype(np.float64)) * scales
    return found


def zero(graph: Graph, name: str) -> Array:
    """What stands for zero in an initializer, in a shape that broadcasts against it."""
    op = _reader(graph, name)
    points = graph.constants.get(op.input(2)) if op is not None else None
    if op is None or points is None:
        return np.zeros((), graph.constants[name].dtype)
    return _along(op, points, graph.constants[name].ndim)


def unrounded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Turn pairs of QuantizeLinear and DequantizeLinear into Identity, in place.

    Two models that are equal up to the order of their sums may round one activation to different steps, and a step is
    a hundredth of the range: equality is shown before rounding."""
    own = [node for node in proto.graph.node if node.domain in ("", "ai.onnx")]
    rounded = {node.output[0]: node.input[0] for node in own if node.op_type == "QuantizeLinear"}
    for node in own:
        if node.op_type == "DequantizeLinear" and node.input[0] in rounded:
            source = rounded[node.input[0]]
            node.op_type = "Identity"
            del node.input[:], node.attribute[:]
            node.input.append(source)
    return proto


def _reader(graph: Graph, name: str) -> Op | None:
    for op in graph.readers.get(name, ()):
        if dequantises_constant(graph, op) and op.inputs[0] == name and op.inputs[1] in graph.constants:
            return op
    return None


def _along(op: Op, values: Array, rank: int) -> Array:
    """One value for all, one for each index of the operator's axis, or one for each block of it."""
    if values.ndim == 0 or values.size == 1:
        return values.reshape(())
    axis = op.integer("axis", 1) % rank
    if values.ndim == 1:
        shape = [1] * rank
        shape[axis] = -1
        return values.reshape(shape)
    return np.repeat(values, op.integer("block_size", 1), axis=axis)
