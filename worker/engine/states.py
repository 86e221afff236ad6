"""Initial states of recurrent layers that are nothing but zeros are left out: the operators start from zero anyway.

Exporters make one tensor of zeros for all layers and take it apart again, which would tie the hidden units of every
layer to each other, and to a size that is written once.

In: a model whose constants are initializers. Out: the same model without such inputs, and without what only made them.
"""

import numpy as np
import onnx_ir as ir

RECURRENT = ("LSTM", "GRU", "RNN")
STATES = (5, 6)
MOVES = (
    "Slice",
    "Identity",
    "Cast",
    "Unsqueeze",
    "Squeeze",
    "Reshape",
    "Transpose",
    "Expand",
    "Gather",
    "Split",
    "Tile",
)


def drop_zero_states(model: ir.Model) -> None:
    """Leave them out, in place."""
    for node in list(model.graph):
        if node.domain not in ("", "ai.onnx") or node.op_type not in RECURRENT:
            continue
        for slot in STATES:
            value = node.inputs[slot] if slot < len(node.inputs) else None
            if value is not None and _is_zero(value):
                node.replace_input_with(slot, None)
                _drop_unread(model.graph, value)


def _is_zero(value: ir.Value) -> bool:
    """Whether every element is zero, whatever the number of samples."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        node = one.producer()
        if one.is_initializer() and one.const_value is not None:
            if np.count_nonzero(one.const_value.numpy()):
                return False
        elif node is None or node.domain not in ("", "ai.onnx"):
            return False
        elif node.op_type == "Concat":
            waiting += [source for source in node.inputs if source is not None]
        elif node.op_type in MOVES and node.inputs[0] is not None:
            waiting.append(node.inputs[0])
        elif node.op_type != "ConstantOfShape" or not _fills_zeros(node):
            return False
    return True


def _fills_zeros(node: ir.Node) -> bool:
    value = node.attributes.get("value")
    return value is None or not np.count_nonzero(value.as_tensor().numpy())


def _drop_unread(graph: ir.Graph, value: ir.Value) -> None:
    """Remove what made a value that nobody reads any more, and what made that."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one.uses() or one.is_graph_output():
            continue
        node = one.producer()
        if node is not None and node.graph is graph and not any(map(_read, node.outputs)):
            waiting += [source for source in node.inputs if source is not None]
            graph.remove(node, safe=True)
        elif node is None and one.is_initializer() and not one.is_graph_input():
            graph.initializers.pop(str(one.name), None)


def _read(value: ir.Value) -> bool:
    return value.is_graph_output() or bool(value.uses())
