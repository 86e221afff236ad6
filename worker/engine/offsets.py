"""Biases for operators that have none: what is added to the values that they give.

In: a model's graph, its operators and nodes side by side, and by value an array of its rank that is added to it. Out:
the graph is changed: a convolution or Gemm without a bias gets one; behind any other operator an Add takes its output's
name.
"""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from worker.engine.graph import Array, Op

BIASED = ("Conv", "ConvTranspose", "Gemm")  # the third input is added for each output
BIAS = 2


def add_offsets(graph: ir.Graph, ops: Sequence[Op], nodes: Sequence[ir.Node], offsets: Mapping[str, Array]) -> None:
    """Write the offsets into the graph."""
    for op, node in zip(ops, nodes, strict=True):
        for value in list(node.outputs):
            array = offsets.get(str(value.name))
            if array is None:
                continue
            if op.key in BIASED and not op.input(BIAS) and op.number("beta", 1.0) == 1.0:
                node.resize_inputs(BIAS + 1)
                node.replace_input_with(BIAS, _constant(graph, f"{value.name}.bias", array.ravel()))
            else:
                _add(graph, node, value, array)


def _add(graph: ir.Graph, node: ir.Node, value: ir.Value, array: Array) -> None:
    name = str(value.name)
    added = ir.node("Add", [value, _constant(graph, f"{name}.bias", array)], name=f"{node.name or name}/bias")
    new = added.outputs[0]
    new.shape, new.type = value.shape, value.type
    value.replace_all_uses_with(new, replace_graph_outputs=True)
    added.replace_input_with(0, value)
    value.name, new.name = f"{name}.plain", name
    graph.insert_after(node, added)


def _constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
