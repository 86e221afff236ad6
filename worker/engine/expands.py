"""The way torch writes `expand`: a size of -1 keeps the axis, which ONNX says with a 1.

In: a model whose constants are initializers. Out: the same model, in which `Where(Equal(sizes, -1), 1, sizes)` is the
Concat behind `sizes` with ones for its -1s. A size that is computed from a shape is never negative. What is not
written in just this way stays.
"""

import numpy as np
import onnx_ir as ir

SIZES = ("Shape", "Gather", "Slice", "Unsqueeze", "Squeeze", "Cast", "Identity")


def settle_expands(model: ir.Model) -> bool:
    """Replace, in place; whether there was any."""
    graph = model.graph
    found = False
    for where in list(graph):
        if where.op_type == "Where" and where.domain in ("", "ai.onnx") and not where.outputs[0].is_graph_output():
            found = _settle(graph, where) or found
    return found


def _settle(graph: ir.Graph, where: ir.Node) -> bool:
    asked, ones, sizes = where.inputs
    equal = None if asked is None else asked.producer()
    if sizes is None or equal is None or equal.op_type != "Equal" or not _all(ones, 1):
        return False
    if not any(one is sizes and _all(other, -1) for one, other in (equal.inputs, reversed(equal.inputs))):
        return False
    concat = _concat(sizes)
    if concat is None or not all(value is not None and _is_size(value) for value in concat.inputs):
        return False
    inputs = [_without_minus_one(graph, value) for value in concat.inputs if value is not None]
    joined = ir.node("Concat", inputs, {"axis": 0}, name=f"{where.name}.sizes")
    joined.outputs[0].name = f"{where.outputs[0].name}.sizes"
    graph.insert_before(where, joined)
    where.outputs[0].replace_all_uses_with(joined.outputs[0])
    for node in (where, equal):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    return True


def _concat(sizes: ir.Value) -> ir.Node | None:
    """The Concat that makes the sizes, through a Reshape that keeps them a list."""
    node = sizes.producer()
    if node is not None and node.op_type == "Reshape" and _all(node.inputs[1], -1) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node is not None and node.op_type == "Concat" else None


def _is_size(value: ir.Value) -> bool:
    """Numbers of the file, or sizes that lead back to a Shape alone."""
    if value.is_initializer() and value.const_value is not None:
        return value.const_value.numpy().ndim == 1
    node = value.producer()
    while node is not None and node.op_type in SIZES and node.inputs[0] is not None:
        if node.op_type == "Shape":
            return True
        node = node.inputs[0].producer()
    return False


def _without_minus_one(graph: ir.Graph, value: ir.Value) -> ir.Value:
    if not value.is_initializer() or value.const_value is None or not (value.const_value.numpy() == -1).any():
        return value
    numbers = value.const_value.numpy()
    name = f"{value.name}.kept"
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(np.where(numbers == -1, 1, numbers).astype(numbers.dtype), name=name)
    made = ir.Value(name=name, shape=ir.Shape(numbers.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(made)
    return made


def _all(value: ir.Value | None, number: int) -> bool:
    if value is None or not value.is_initializer() or value.const_value is None:
        return False
    array = value.const_value.numpy()
    return array.dtype.kind == "i" and bool((array == number).all())
