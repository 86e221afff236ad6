"""Sizes that the file itself settles become numbers.

Exporters compute shapes and scales at run time from the sizes of tensors, although most of these sizes follow from the
declared inputs and the weights. As numbers they are free: a number that names a size is rewritten with a cut, and one
that scales (a root of the head's width) stays what it was, which is what exactness asks for.

In: a model whose constants are initializers. Out: the same model with such sizes replaced (`dimensions` follows
them); what depends on an open dimension stays computed, except that a product in the target of a Reshape (samples
times heads) becomes -1 where it is the only one.
"""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from worker.engine.dimensions import Settled, settle
from worker.engine.extents import Sizes, plain
from worker.engine.fold import FOLDS
from worker.engine.graph import Array, Op, freeze

Integers = npt.NDArray[np.int64]
HANDS_ON = ("Unsqueeze", "Squeeze", "Reshape", "Cast", "Identity")
ARITHMETIC = ("Mul", "Div", "Add", "Sub")
MOST_NUMBERS = 64  # of a tensor that may be the target of a Reshape


def settle_sizes(model: ir.Model) -> None:
    """Sizes that are known become numbers, and a Squeeze names its axes where they are known; in place."""
    graph = freeze(model)
    if not any(op.key in ("Shape", "Size", "Squeeze") for op in graph.ops):
        return
    found = settle(model, graph)
    for op in graph.ops:
        for value in op.node.outputs:
            name = str(value.name)
            if name in found.numbers and name not in graph.static and _is_wanted(value, found):
                _become(model.graph, value, found.numbers[name])
        if op.key == "Squeeze" and not op.input(1) and "axes" not in op.attrs:
            _name_axes(model.graph, op, found.shapes.get(op.inputs[0]))
    _drop_unread(model.graph)


def _is_wanted(value: ir.Value, found: Settled) -> bool:
    """Whether somebody reads it who is not a known number himself."""
    return any(str(output.name) not in found.numbers for node, _ in value.uses() for output in node.outputs)


def _name_axes(graph: ir.Graph, op: Op, shape: Sizes | None) -> None:
    """Without axes a Squeeze would also drop an axis of which a cut leaves one index."""
    sizes = None if shape is None else plain(shape)
    axes = [axis for axis, size in enumerate(sizes or ()) if size == 1]
    if not axes:
        return
    if op.opset < 13:
        op.node.attributes["axes"] = ir.AttrInt64s("axes", axes)
    else:
        op.node.resize_inputs(2)
        op.node.replace_input_with(1, _initializer(graph, f"{op.outputs[0]}.axes", np.array(axes, np.int64)))


def open_products(model: ir.Model) -> None:
    """Let Reshape find a product out for itself, in place. Constants have been folded: what is computed is open."""
    for node in list(model.graph):
        if _is(node, "Concat"):
            _open_product(model.graph, node)
    _drop_unread(model.graph)


def _drop_unread(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if _is(node, "Shape", "Size", *FOLDS) and not any(_read(value) for value in node.outputs):
            graph.remove(node, safe=True)


def _is(node: ir.Node, *types: str) -> bool:
    return node.domain in ("", "ai.onnx") and node.op_type in types


def _number(value: ir.Value | None) -> Integers | None:
    """The integers of an initializer."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    array = value.const_value.numpy()
    return array.astype(np.int64) if array.dtype.kind == "i" and array.size <= MOST_NUMBERS else None


def _become(graph: ir.Graph, value: ir.Value, numbers: Array) -> None:
    """Readers of a value read these numbers instead. An output of the graph stays what it is."""
    if value.is_graph_output():
        return
    value.replace_all_uses_with(_initializer(graph, f"{value.name}.settled", numbers))


def _initializer(graph: ir.Graph, name: str, numbers: Array) -> ir.Value:
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(numbers, name=name)
    value = ir.Value(name=name, shape=ir.Shape(numbers.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _open_product(graph: ir.Graph, concat: ir.Node) -> None:
    """[steps, samples * heads, width] becomes [steps, -1, width], where Reshapes alone read it."""
    uses = list(concat.outputs[0].uses())
    if not uses or any(not _plain_reshape(node) or slot != 1 for node, slot in uses):
        return
    computed = [slot for slot, value in enumerate(concat.inputs) if value is not None and _is_arithmetic(value)]
    numbers = [found for value in concat.inputs if (found := _number(value)) is not None]
    if len(computed) == 1 and all((one > 0).all() for one in numbers):
        opened = _initializer(graph, f"{concat.outputs[0].name}.open", np.array([-1]))
        concat.replace_input_with(computed[0], opened)


def _plain_reshape(node: ir.Node) -> bool:
    allow = node.attributes.get("allowzero")
    return _is(node, "Reshape") and (allow is None or allow.as_int() == 0)


def _is_arithmetic(value: ir.Value) -> bool:
    """Whether one size is computed from several, and not just taken from a shape."""
    node = value.producer()
    single = value.shape is not None and list(value.shape) == [1]
    while node is not None and _is(node, *HANDS_ON):
        single = single or _makes_one(node)
        source = node.inputs[0]
        node = None if source is None else source.producer()
    return single and node is not None and _is(node, *ARITHMETIC)


def _makes_one(node: ir.Node) -> bool:
    """Whether its output has one element: Unsqueeze of a scalar, as exporters write each entry."""
    target = _number(node.inputs[1]) if len(node.inputs) > 1 else None
    return _is(node, "Unsqueeze") or (_is(node, "Reshape") and target is not None and target.tolist() in ([-1], [1]))


def _read(value: ir.Value) -> bool:
    return value.is_graph_output() or bool(value.uses())
