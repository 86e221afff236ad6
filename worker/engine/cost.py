"""What a model costs, before and after a cut, from shapes alone: parameters, MACs, bytes of weights. What its
activations need is for `arena`.

In: a graph, the ties (shapes before) and how many indices go on each axis. Out: numbers. One sample, or the model's
fixed batch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from worker.engine.axes import Group
from worker.engine.graph import Array, Graph, Op
from worker.engine.ops import RULES
from worker.engine.ops.rule import Shape, ShapeOf
from worker.engine.quantised import is_quantised
from worker.engine.ties import Axis, Seen

NARROW = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}  # bits
Gone = Mapping[str, tuple[int, ...]]  # by group name: the units that go, sorted


@dataclass(frozen=True)
class Cost:
    parameters: int
    macs: int


def axes_gone(groups: Iterable[Group], gone: Mapping[str, int]) -> dict[Axis, int]:
    """How many indices each axis loses when groups lose that many units."""
    lost: dict[Axis, int] = {}
    for group in groups:
        for axis, index in group.sites.items():
            lost[axis] = lost.get(axis, 0) + gone.get(group.name, 0) * index.shape[1]
    return lost


def shapes_after(seen: Seen, lost: Mapping[Axis, int]) -> ShapeOf:
    """Shapes once those indices are gone."""

    def after(name: str) -> Shape:
        return tuple(size - lost.get((name, axis), 0) for axis, size in enumerate(seen.shapes[name]))

    return after


def cost(graph: Graph, after: ShapeOf) -> Cost:
    return Cost(parameters(graph, after), sum(macs_by_op(graph, after).values()))


def parameters(graph: Graph, after: ShapeOf, names: Iterable[str] | None = None) -> int:
    """Elements of floating-point constants and quantised ones; other integers are shapes and indices. Without names:
    of the whole model, with what lies inside branches and loops."""
    chosen = graph.constants if names is None else names
    own = sum(prod(after(name)) for name in chosen if is_parameter(graph, name))
    return own + (sum(map(inner_parameters, graph.ops)) if names is None else 0)


def inner_weights(op: Op) -> list[tuple[int, np.dtype[np.generic]]]:
    """The weights inside the branches of an operator."""
    return [(elements, dtype) for elements, dtype in op.inner if is_real(np.empty(0, dtype))]


def inner_parameters(op: Op) -> int:
    return sum(elements for elements, _ in inner_weights(op))


def flash_bytes(graph: Graph, after: ShapeOf) -> int:
    """Bytes of all constants, each in its own type: what a deployment keeps in flash, its program left out."""
    own = sum(packed_bytes(prod(after(name)), array.dtype) for name, array in graph.constants.items())
    return own + sum(packed_bytes(elements, dtype) for op in graph.ops for elements, dtype in op.inner)


def packed_bytes(elements: int, dtype: np.dtype[np.generic]) -> int:
    """Types of less than a byte lie side by side, as they do in the file."""
    bits = NARROW.get(dtype.name)
    return -(-elements * bits // 8) if bits else elements * dtype.itemsize


def is_parameter(graph: Graph, name: str) -> bool:
    return is_real(graph.constants[name]) or is_quantised(graph, name)


def is_real(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def macs_by_op(graph: Graph, after: ShapeOf) -> dict[int, int]:
    """Multiply-accumulates of products and convolutions, by operator index."""
    return {
        op.index: RULES[op.key].macs(op, after)
        for op in graph.ops
        if op.key in RULES and op.outputs[0] not in graph.static
    }
