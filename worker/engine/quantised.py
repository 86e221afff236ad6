"""Weights that are stored as integers, read through DequantizeLinear or by operators of integers; activations that are
rounded on their way.

In: a graph. Out: the initializer behind a weight, its real values, and the integer that stands for zero. Or in: a
model. Out: the same model without the rounding of its activations.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx

from worker.engine.graph import Array, Graph, Op


@dataclass(frozen=True)
class Held:
    """The input slots of numbers held as integers, of their scale and of what stands for zero. `axis` is the one that
    has scales of its own; None: an attribute says which. MatMulInteger leaves the scale to what follows."""

    values: int
    scale: int | None
    zero: int | None
    axis: int | None = None


HELD: dict[str, tuple[Held, ...]] = {
    "DequantizeLinear": (Held(0, 1, 2),),
    "QLinearConv": (Held(3, 4, 5, 0), Held(8, None, None, 0)),
    "QLinearMatMul": (Held(3, 4, 5, -1), Held(0, 1, 2, -2)),
    "ConvInteger": (Held(1, None, 3, 0),),
    "MatMulInteger": (Held(1, None, 3, -1), Held(0, None, 2, -2)),
    "com.microsoft::QGemm": (Held(3, 4, 5), Held(6, None, None, 0)),
}

# What stands for zero among the integers that a product or a convolution reads: by operator and slot, its slot.
ZEROS: dict[tuple[str, int], int] = {
    ("QLinearConv", 0): 2,
    ("QLinearMatMul", 0): 2,
    ("QLinearMatMul", 3): 5,
    ("ConvInteger", 0): 2,
    ("MatMulInteger", 0): 2,
    ("MatMulInteger", 1): 3,
    ("com.microsoft::QGemm", 0): 2,
    ("com.microsoft::QGemm", 3): 5,
}


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


def held_as_integers(nodes: Iterable[onnx.NodeProto]) -> dict[str, tuple[str, int, int]]:
    """The names of integers that stand for real numbers; of each, what stands for zero, on which axis if there is one
    for each index, and for how many indices together."""
    found = {}
    for node in nodes:
        key = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        given = {attr.name: attr.i for attr in node.attribute}
        for one in HELD.get(key, ()):
            if one.values < len(node.input):
                zero = node.input[one.zero] if one.zero is not None and one.zero < len(node.input) else ""
                axis = _axis(key, one, given.get("axis", 1), given.get("transB", 0))
                found[node.input[one.values]] = zero, axis, given.get("block_size", 1)
    return found


def real(graph: Graph, name: str) -> npt.NDArray[np.float64]:
    """The real numbers that an initializer stands for."""
    array = graph.constants[name].astype(np.float64)
    reader = _reader(graph, name)
    if reader is None:
        return array
    op, held = reader
    scales = _along(op, held, _constant(graph, op, held.scale), array.ndim)
    found: npt.NDArray[np.float64] = (array - zero(graph, name).astype(np.float64)) * scales.astype(np.float64)
    return found


def zero(graph: Graph, name: str) -> Array:
    """What stands for zero in an initializer, in a shape that broadcasts against it."""
    reader = _reader(graph, name)
    points = None if reader is None else _constant(graph, reader[0], reader[1].zero)
    if reader is None or points is None:
        return np.zeros((), graph.constants[name].dtype)
    return _along(*reader, points, graph.constants[name].ndim)


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


def without_rounding(graph: Graph) -> Graph:
    """The same of a graph."""

    def plain(op: Op) -> Op:
        maker = graph.producer.get(op.input(0)) if op.key == "DequantizeLinear" else None
        if maker is None or maker.key != "QuantizeLinear":
            return op
        return replace(op, key="Identity", inputs=maker.inputs[:1], attrs={})

    return replace(graph, ops=tuple(map(plain, graph.ops)))


def _reader(graph: Graph, name: str) -> tuple[Op, Held] | None:
    for op in graph.readers.get(name, ()):
        for held in HELD.get(op.key, ()):
            if op.input(held.values) != name or name not in graph.constants:
                continue
            if op.key != "DequantizeLinear" or (dequantises_constant(graph, op) and op.inputs[1] in graph.constants):
                return op, held
    return None


def _constant(graph: Graph, op: Op, slot: int | None) -> Array | None:
    return None if slot is None else graph.constants.get(op.input(slot))


def _along(op: Op, held: Held, values: Array | None, rank: int) -> Array:
    if values is None:
        return np.ones(())
    axis = _axis(op.key, held, op.integer("axis", 1), op.integer("transB", 0))
    return along(values, axis, rank, op.integer("block_size", 1))


def along(values: Array, axis: int, rank: int, block: int = 1) -> Array:
    """One value for all, one for each index of an axis, or one for each block of it; in a shape that broadcasts."""
    if values.ndim == 0 or values.size == 1:
        return values.reshape(())
    if values.ndim == 1:
        shape = [1] * rank
        shape[axis % rank] = -1
        return values.reshape(shape)
    return np.repeat(values, block, axis=axis % rank)


def _axis(key: str, held: Held, stated: int, transposed: int) -> int:
    """Where scales lie that are several."""
    if held.axis is not None:
        return held.axis
    return stated if key == "DequantizeLinear" else 1 - transposed
