"""The one door to the IR: a model becomes a frozen `Graph` of `Op`s.

In: a normalised `onnx_ir.Model` (see `load`). Out: `Graph`. Refused: nothing; what the graph cannot express
(subgraphs, custom domains) stays visible as an operator with an unknown key, and later stages pin what it touches.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from worker.engine.sample_axes import Dims, find_axes

Array: TypeAlias = npt.NDArray[np.generic]
AttrValue: TypeAlias = int | float | str | tuple[int, ...] | tuple[float, ...] | Array


# These draw random numbers: what they give is no constant, whatever they read.
DRAWS = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)


@dataclass(frozen=True, eq=False)
class Op:
    """One node. `key` is the operator type, with its domain in front where that is not ONNX's own."""

    index: int
    key: str
    name: str
    opset: int
    inputs: tuple[str, ...]  # "" where an optional input is absent
    outputs: tuple[str, ...]
    attrs: Mapping[str, AttrValue]
    captures: tuple[str, ...]  # values that its subgraphs read from outside
    inner: tuple[tuple[int, np.dtype[np.generic]], ...]  # elements and type of the constants inside its subgraphs
    node: ir.Node

    def ints(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        value = self.attrs.get(name, default)
        assert isinstance(value, tuple), f"{self.name}: attribute {name} is not a list"
        return tuple(int(one) for one in value)

    def integer(self, name: str, default: int) -> int:
        value = self.attrs.get(name, default)
        assert isinstance(value, int), f"{self.name}: attribute {name} is not an integer"
        return value

    def number(self, name: str, default: float) -> float:
        value = self.attrs.get(name, default)
        assert isinstance(value, int | float), f"{self.name}: attribute {name} is not a number"
        return float(value)

    def text(self, name: str, default: str) -> str:
        value = self.attrs.get(name, default)
        assert isinstance(value, str), f"{self.name}: attribute {name} is not a string"
        return value

    def input(self, slot: int) -> str:
        """The name at an input slot; "" where it is absent."""
        return self.inputs[slot] if slot < len(self.inputs) else ""

    def label(self) -> str:
        return f"{self.key} {self.name!r}"


@dataclass(frozen=True)
class Port:
    """An input or output of the graph. A dimension that is not fixed is None."""

    name: str
    dtype: np.dtype[np.generic] | None
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, eq=False)
class Graph:
    ops: tuple[Op, ...]
    constants: Mapping[str, Array]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opsets: Mapping[str, int]
    ir_version: int
    sample_axes: Mapping[str, int | None]  # of inputs and outputs; None: the same for all samples

    @cached_property
    def producer(self) -> Mapping[str, Op]:
        return {name: op for op in self.ops for name in op.outputs if name}

    @cached_property
    def readers(self) -> Mapping[str, tuple[Op, ...]]:
        """The operators that read each value, subgraphs included."""
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in dict.fromkeys((*op.inputs, *op.captures)):
                if name:
                    found.setdefault(name, []).append(op)
        return {name: tuple(ops) for name, ops in found.items()}

    @cached_property
    def static(self) -> frozenset[str]:
        """Values that depend on constants alone."""
        known = set(self.constants)
        for op in self.ops:
            if op.key not in DRAWS and all(not name or name in known for name in (*op.inputs, *op.captures)):
                known.update(name for name in op.outputs if name)
        return frozenset(known)

    def fixed_batch(self) -> int | None:
        """The batch size the model insists on: its inputs' dimension of the samples, where that is a number."""
        axes = ((port, self.sample_axes[port.name]) for port in self.inputs if port.shape)
        sizes = {port.shape[axis] for port, axis in axes if axis is not None and port.shape}
        return sizes.pop() if len(sizes) == 1 else None


def freeze(model: ir.Model, sample_axes: Mapping[str, int | None] | None = None) -> Graph:
    """The graph of a model. Initializers become constants; names stay. `sample_axes` is what a request says of them."""
    graph = model.graph
    opsets = dict(model.opset_imports)
    ops = tuple(_op(index, node, opsets) for index, node in enumerate(graph))
    constants = {
        name: value.const_value.numpy() for name, value in graph.initializers.items() if value.const_value is not None
    }
    return Graph(
        ops=ops,
        constants=constants,
        inputs=tuple(map(_port, graph.inputs)),
        outputs=tuple(map(_port, graph.outputs)),
        opsets=opsets,
        ir_version=model.ir_version,
        sample_axes=find_axes(_dims(graph.inputs), _dims(graph.outputs), sample_axes or {}),
    )


def _dims(values: Iterable[ir.Value]) -> dict[str, Dims]:
    """Numbers, names, or None where a dimension has neither; nothing at all where the rank is unknown."""
    return {
        str(value.name): tuple(dim if isinstance(dim, int) else dim.value or None for dim in value.shape or ())
        for value in values
    }


def _op(index: int, node: ir.Node, opsets: Mapping[str, int]) -> Op:
    attrs: dict[str, AttrValue] = {}
    captures: list[str] = []
    inner: list[tuple[int, np.dtype[np.generic]]] = []
    for name, attr in node.attributes.items():
        if subgraphs := _subgraphs(attr):
            captures += [one for graph in subgraphs for one in _captured(graph)]
            inner += [one for graph in subgraphs for one in _inner(graph)]
        elif (value := _attr_value(attr)) is not None:
            attrs[name] = value
    own = node.domain in ("", "ai.onnx")
    return Op(
        index=index,
        key=node.op_type if own else f"{node.domain}::{node.op_type}",
        name=node.name or f"{node.op_type}_{index}",
        opset=opsets.get(node.domain, 1),
        inputs=tuple("" if value is None else str(value.name) for value in node.inputs),
        outputs=tuple(str(value.name) for value in node.outputs),
        attrs=attrs,
        captures=tuple(dict.fromkeys(captures)),
        inner=tuple(inner),
        node=node,
    )


def _attr_value(attr: ir.Attr) -> AttrValue | None:
    match attr.type:
        case ir.AttributeType.INT:
            return int(attr.as_int())
        case ir.AttributeType.FLOAT:
            return float(attr.as_float())
        case ir.AttributeType.STRING:
            # Bytes that are no text are the operator's own; what should have been text, onnxruntime refuses.
            return attr.value if isinstance(attr.value, str) else None
        case ir.AttributeType.INTS:
            return tuple(int(one) for one in attr.as_ints())
        case ir.AttributeType.FLOATS:
            return tuple(float(one) for one in attr.as_floats())
        case ir.AttributeType.TENSOR:
            array: Array = attr.as_tensor().numpy()
            return array
        case _:
            return None


def _subgraphs(attr: ir.Attr) -> list[ir.Graph]:
    if attr.type == ir.AttributeType.GRAPH:
        return [attr.as_graph()]
    return list(attr.as_graphs()) if attr.type == ir.AttributeType.GRAPHS else []


def _inner(graph: ir.Graph) -> Iterator[tuple[int, np.dtype[np.generic]]]:
    """The constants of a subgraph, however deep: elements and type of each."""
    tensors = [value.const_value for value in graph.initializers.values()]
    for node in graph:
        for attr in node.attributes.values():
            tensors += [attr.as_tensor()] if attr.type == ir.AttributeType.TENSOR else []
            for inner in _subgraphs(attr):
                yield from _inner(inner)
    kept = [tensor for tensor in tensors if tensor is not None and tensor.dtype != ir.DataType.STRING]
    yield from ((tensor.size, np.dtype(tensor.dtype.numpy())) for tensor in kept)


def _captured(graph: ir.Graph) -> list[str]:
    """Names that a subgraph, however deep, takes from outside itself."""
    own = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    own |= {output.name for node in graph for output in node.outputs}
    read: list[str] = [str(value.name) for value in graph.outputs if value.name not in own]
    for node in graph:
        read += [str(value.name) for value in node.inputs if value is not None and value.name not in own]
        for attr in node.attributes.values():
            read += [name for inner in _subgraphs(attr) for name in _captured(inner) if name not in own]
    return read


def _port(value: ir.Value) -> Port:
    dtype = None if value.dtype in (None, ir.DataType.STRING, ir.DataType.UNDEFINED) else np.dtype(value.dtype.numpy())
    shape = None if value.shape is None else tuple(dim if isinstance(dim, int) else None for dim in value.shape)
    return Port(str(value.name), dtype, shape)
