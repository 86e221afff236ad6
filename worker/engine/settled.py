"""Sizes that the file itself settles become numbers.

Exporters compute shapes and scales at run time from the sizes of tensors, although most of these sizes follow from the
declared inputs and the weights. As numbers they are free: a number that names a size is rewritten with a cut, and one
that scales (a root of the head's width) stays what it was, which is what exactness asks for.

In: a model whose constants are initializers. Out: the same model with such sizes replaced; what depends on an open
dimension stays computed, except that a product in the target of a Reshape (samples times heads) becomes -1 where it is
the only one.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

Sizes = list[int | None]
Integers = npt.NDArray[np.int64]
HANDS_ON = ("Unsqueeze", "Squeeze", "Reshape", "Cast", "Identity")
SIZES = ("Shape", "Gather", "Slice")
ARITHMETIC = ("Mul", "Div", "Add", "Sub")
LONGEST = 1 << 20  # inference follows the elements of lists one by one, however many a file asks for
MOST_NUMBERS = 64  # of a tensor that may be the target of a Reshape


def settle_sizes(model: ir.Model) -> None:
    """Sizes that are known become numbers, in place."""
    shapes = _inferred(model)
    graph = model.graph
    for node in list(graph):
        if _is(node, "Shape") and node.inputs[0] is not None:
            sizes = shapes.get(str(node.inputs[0].name))
            if sizes is not None:
                _replace_reads(graph, node, _window(node, sizes))
    _drop_unread(graph)


def open_products(model: ir.Model) -> None:
    """Let Reshape find a product out for itself, in place. Constants have been folded: what is computed is open."""
    for node in list(model.graph):
        if _is(node, "Concat"):
            _open_product(model.graph, node)
    _drop_unread(model.graph)


def _drop_unread(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if _is(node, *SIZES, *HANDS_ON, *ARITHMETIC) and not any(_read(value) for value in node.outputs):
            graph.remove(node, safe=True)


def _is(node: ir.Node, *types: str) -> bool:
    return node.domain in ("", "ai.onnx") and node.op_type in types


def _inferred(model: ir.Model) -> Mapping[str, Sizes]:
    """Shapes that follow from the inputs and the weights alone: what the file says of values between is not asked."""
    clone = model.clone()
    for node in clone.graph:
        for value in node.outputs:
            value.shape = None
    try:
        inferred = passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(clone).model
        if not any(_is_long(value) for node in inferred.graph for value in node.outputs):
            inferred = passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(clone).model
    except (RuntimeError, ValueError, TypeError):  # inference is a help: onnxruntime runs more than onnx infers
        return {}
    values = [*inferred.graph.inputs, *(value for node in inferred.graph for value in node.outputs)]
    return {
        str(value.name): [dim if isinstance(dim, int) else None for dim in value.shape]
        for value in values
        if value.shape is not None
    }


def _is_long(value: ir.Value) -> bool:
    dims = [] if value.shape is None else list(value.shape)
    return len(dims) == 1 and isinstance(dims[0], int) and dims[0] > LONGEST


def _window(node: ir.Node, sizes: Sizes) -> Sizes:
    start, end = node.attributes.get("start"), node.attributes.get("end")
    return sizes[None if start is None else start.as_int() : None if end is None else end.as_int()]


def _replace_reads(graph: ir.Graph, node: ir.Node, sizes: Sizes) -> None:
    """The whole shape where all of it is known, else what single readers pick of it."""
    output = node.outputs[0]
    if _settled(sizes) is not None:
        _become(graph, output, _settled(sizes))
        return
    for reader, slot in list(output.uses()):
        if slot != 0 or reader.graph is not graph:
            continue
        if _is(reader, "Gather"):
            index = _number(reader.inputs[1])
            if index is not None and index.ndim < 2 and (not index.size or np.abs(index).max() <= len(sizes)):
                picked = _settled([sizes[one] for one in index.ravel().tolist() if -len(sizes) <= one < len(sizes)])
                if picked is not None and len(picked) == index.size:
                    _become(graph, reader.outputs[0], picked.reshape(index.shape))
        elif _is(reader, "Slice"):
            _become(graph, reader.outputs[0], _settled(_sliced(reader, sizes)))


def _sliced(node: ir.Node, sizes: Sizes) -> Sizes:
    settings = [_number(value) for value in node.inputs[1:] if value is not None]
    if len(node.inputs) < 3 or any(one is None or one.size != 1 for one in settings):
        return [None]
    start, end = (int(one.item()) for one in settings[:2] if one is not None)
    steps = _number(node.inputs[4]) if len(node.inputs) > 4 else None
    return sizes[start : end : 1 if steps is None else int(steps.item())]


def _settled(sizes: Sizes) -> Integers | None:
    known = [one for one in sizes if one is not None]
    return np.array(known, np.int64) if len(known) == len(sizes) else None


def _number(value: ir.Value | None) -> Integers | None:
    """The integers of an initializer."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    array = value.const_value.numpy()
    return array.astype(np.int64) if array.dtype.kind == "i" and array.size <= MOST_NUMBERS else None


def _become(graph: ir.Graph, value: ir.Value, numbers: Integers | None) -> None:
    """Readers of a value read these numbers instead. An output of the graph stays what it is."""
    if numbers is None or value.is_graph_output():
        return
    value.replace_all_uses_with(_initializer(graph, f"{value.name}.settled", numbers))


def _initializer(graph: ir.Graph, name: str, numbers: Integers) -> ir.Value:
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
