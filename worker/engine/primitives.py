"""Nodes that stand in for one node of a model, for the model of the proof.

In: a graph and a node of it. Out: values that compute with the plainest operators what the node computes, over the
units that stay. The model keeps its width: only what the node counts and adds up is another.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from worker.engine.graph import Array, Op

Value: TypeAlias = ir.Value
AXES_AS_INPUT = 18  # the opset from which ReduceMean takes its axes as an input


class Primitives:
    """Writes nodes before `node`; called with an operator and its inputs it gives the output."""

    def __init__(self, graph: ir.Graph, node: ir.Node, opset: int, kind: np.dtype[np.generic], prefix: str) -> None:
        self.inputs: Sequence[Value | None] = node.inputs
        self.attrs: Mapping[str, ir.Attr] = node.attributes
        self._graph, self._node, self._opset, self._prefix = graph, node, opset, prefix
        self._kind = kind
        self._wide = np.dtype(np.float32) if kind.itemsize == 2 else kind
        self._count = 0

    def input(self, slot: int) -> Value:
        """What the node reads at a slot that the operator requires."""
        value = self.optional(slot)
        assert value is not None, f"required input {slot} is absent"
        return value

    def optional(self, slot: int) -> Value | None:
        return self.inputs[slot] if slot < len(self.inputs) else None

    def __call__(self, operator: str, *inputs: Value | None, **attrs: ir.Attr | int | Sequence[int]) -> Value:
        node = ir.node(operator, list(inputs), attrs, name=self._name(operator))
        node.outputs[0].name = self._name("out")
        self._graph.insert_before(self._node, node)
        return node.outputs[0]

    def constant(self, number: float | Array, whole: bool = False) -> Value:
        """A number or an array, in the kind of numbers that is computed in."""
        return self.exactly(np.asarray(number, np.int64 if whole else self._wide))

    def where(self, mask: Array, x: Value, zero: Value | None) -> Value:
        """Integers, and what stands for zero among them where the mask is zero."""
        wide = np.dtype(np.int32)
        other = self.exactly(np.zeros((), wide)) if zero is None else self._cast(zero, wide)
        return self._cast(self("Where", self.exactly(mask != 0), self._cast(x, wide), other), self._kind)

    def exactly(self, array: Array) -> Value:
        """A constant of the array's own kind."""
        name = self._name("constant")
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def mean(self, x: Value, axes: Sequence[int], mask: Array) -> Value:
        """Over what the mask leaves, axes kept: the mean of what is masked, times all over those that stay."""
        masked = self("Mul", x, self.constant(mask))
        if self._opset < AXES_AS_INPUT:
            mean = self("ReduceMean", masked, axes=list(axes), keepdims=1)
        else:
            mean = self("ReduceMean", masked, self.constant(np.array(axes), whole=True), keepdims=1)
        return self("Mul", mean, self.constant(1 / mask.mean(dtype=np.float64)))

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        return self("Reshape", x, self.constant(np.array(shape), whole=True))

    def wide(self, x: Value) -> Value:
        """Half precision is computed in single, as the operators themselves do."""
        return x if self._wide == self._kind else self._cast(x, self._wide)

    def narrow(self, x: Value) -> Value:
        return x if self._wide == self._kind else self._cast(x, self._kind)

    def _cast(self, x: Value, kind: np.dtype[np.generic]) -> Value:
        return self("Cast", x, to=int(onnx.helper.np_dtype_to_tensor_dtype(kind)))

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{self._prefix}.{what}.{self._count}"


OverKept = Callable[[Op, Primitives, Array], tuple[Value, ...]]
