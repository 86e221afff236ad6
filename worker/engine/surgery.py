"""The two ways to change a model's structure, both on a clone: cut units out, or mask them where they are read.

In: the normalised model, its graph, what changed, and the units that go. Out: an ONNX `ModelProto`. Names, opset,
dynamic axes and metadata stay as they were. What changed are constants, by their names, and offsets, by the names of
the values that they are added to.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import version

import numpy as np
import onnx
import onnx_ir as ir

from schemas.request import PruneRequest
from worker.engine import cost
from worker.engine.axes import Group
from worker.engine.chance import settle
from worker.engine.cost import Gone
from worker.engine.graph import Array, Graph, Op
from worker.engine.offsets import add_offsets
from worker.engine.ops import RULES
from worker.engine.ops.rule import Cut, ShapeOf
from worker.engine.primitives import Primitives
from worker.engine.quantised import unrounded
from worker.engine.shelf import IN_MEMORY, Shelf
from worker.engine.ties import Axis, Points, Ties

# Outputs of these are compared before them: two near-equal inputs may give quite different outputs.
CHOOSERS = ("ArgMax", "ArgMin", "TopK", "NonMaxSuppression")


def indices_gone(groups: Iterable[Group], gone: Gone) -> dict[Axis, Points]:
    """For each axis the sorted indices that go."""
    found: dict[Axis, list[Points]] = {}
    for group in groups:
        units = list(gone.get(group.name, ()))
        if units:
            for axis, index in group.sites.items():
                found.setdefault(axis, []).append(index[units].ravel())
    return {axis: np.unique(np.concatenate(parts)) for axis, parts in found.items()}


def cut(
    model: ir.Model,
    ties: Ties,
    changed: Mapping[str, Array],
    gone: Mapping[Axis, Points],
    after: ShapeOf,
    shelf: Shelf = IN_MEMORY,
) -> ir.Model:
    """The model without those indices; what depends on sizes (group, target shapes) follows."""
    graph = ties.graph
    clone = model.clone()
    for name, array in graph.constants.items():
        smaller = _without(changed.get(name, array), name, gone)
        if smaller is not array:
            _set_constant(clone.graph, name, smaller, shelf)
    nodes = list(clone.graph)
    for op, node in zip(graph.ops, nodes, strict=True):
        rule = RULES.get(op.key)
        if rule is None or op.outputs[0] in graph.static:
            continue
        follow = rule.follow(op, ties, Cut(after, gone))
        for attr, setting in follow.attrs.items():
            _set_attribute(node, attr, setting)
        for slot, constant in follow.constants.items():
            _feed_constant(clone.graph, node, slot, constant)
    _resize_values(clone.graph, gone, after)
    offsets = {name: _without(array, name, gone) for name, array in changed.items() if name in graph.producer}
    add_offsets(clone.graph, graph.ops, nodes, offsets)
    for value in clone.graph.outputs:
        shape = ties.seen.shapes.get(str(value.name))
        tensor = isinstance(value.type, ir.TensorType)
        if value.shape is None and shape is not None and tensor:  # a complete file states how many dimensions
            value.shape = ir.Shape([ir.SymbolicDim(None) for _ in shape])
    return clone


def _without(array: Array, name: str, gone: Mapping[Axis, Points]) -> Array:
    for axis in range(array.ndim):
        if (name, axis) in gone and array.shape[axis] > 1:
            array = np.delete(array, gone[name, axis], axis=axis)
    return array


def masked(
    model: ir.Model,
    ties: Ties,
    changed: Mapping[str, Array],
    groups: Iterable[Group],
    gone: Gone,
    shelf: Shelf = IN_MEMORY,
) -> ir.Model:
    """The model at full width in which every reader of a removed unit reads zero, and statistics over units are those
    of the units that stay."""
    clone = model.clone()
    nodes = list(clone.graph)
    for name, array in changed.items():
        if name in ties.graph.constants:
            _set_constant(clone.graph, name, array, shelf)
    zeros = {(one.op.index, one.slot): one.zero for group in groups for one in group.consumers}
    for (op_index, slot), mask in masks(ties, groups, gone).items():
        node = nodes[op_index]
        opset, prefix = ties.graph.ops[op_index].opset, f"espalier.mask.{op_index}.{slot}"
        write = Primitives(clone.graph, node, opset, mask.dtype, prefix)
        zero = zeros.get((op_index, slot))
        if zero is None:
            node.replace_input_with(slot, write("Mul", write.input(slot), write.exactly(mask)))
        else:
            node.replace_input_with(slot, write.where(mask, write.input(slot), write.optional(zero)))
    offsets = {name: array for name, array in changed.items() if name in ties.graph.producer}
    add_offsets(clone.graph, ties.graph.ops, nodes, offsets)
    for op_index, mask in kept_masks(ties, groups, gone).items():
        _over_kept(clone.graph, nodes[op_index], ties.graph.ops[op_index], mask)
    return clone


def kept_masks(ties: Ties, groups: Iterable[Group], gone: Gone) -> dict[int, Array]:
    """For each operator that takes statistics over removed units: zero where these are in its first input."""
    found: dict[int, Array] = {}
    lost = indices_gone(groups, gone)
    for one in ties.statistics:
        name = one.op.inputs[0]
        if (name, one.axis) in lost:
            shape = [1] * len(ties.shape(name))
            shape[one.axis] = ties.shape(name)[one.axis]
            mask = np.ones(shape[one.axis], dtype=_dtype(ties, name, ""))
            mask[lost[name, one.axis]] = 0
            found[one.op.index] = mask.reshape(shape) * found.get(one.op.index, np.ones((), mask.dtype))
    return found


def _over_kept(graph: ir.Graph, node: ir.Node, op: Op, mask: Array) -> None:
    """Plain operators take the node's place, and its outputs' names."""
    write = RULES[op.key].over_kept
    assert write is not None, f"{op.label()} takes statistics"
    made = write(op, Primitives(graph, node, op.opset, mask.dtype, f"espalier.kept.{op.index}"), mask)
    for old, new in zip(node.outputs, made, strict=False):
        name, old.name = old.name, f"{old.name}.replaced"
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name = name
    graph.remove(node, safe=True)


def masks(ties: Ties, groups: Iterable[Group], gone: Gone) -> dict[tuple[int, int], Array]:
    """What multiplies each reader's input, by operator and input slot: zero at the removed units."""
    found: dict[tuple[int, int], Array] = {}
    for group in groups:
        units = list(gone.get(group.name, ()))
        for consume in group.consumers if units else ():
            name = consume.op.inputs[consume.slot]
            shape = [1] * len(ties.shape(name))
            shape[consume.axis] = ties.shape(name)[consume.axis]
            mask = np.ones(shape[consume.axis], dtype=_dtype(ties, name, consume.weight))
            mask[group.sites[name, consume.axis][units].ravel()] = 0
            key = consume.op.index, consume.slot
            mask = mask.reshape(shape)
            found[key] = np.minimum(mask, found[key]) if key in found else mask
    return found


def _dtype(ties: Ties, name: str, weight: str) -> np.dtype[np.generic]:
    """The type of the numbers read at `name`. The executor sees half precision as single; constants tell."""
    constants = ties.graph.constants
    if weight:
        return constants[weight].dtype
    seen = ties.seen.dtypes[name]
    kept = {array.dtype for array in constants.values() if cost.is_real(array)}
    halves = {dtype for dtype in kept if dtype.itemsize == 2}
    return halves.pop() if seen == np.float32 and len(halves) == 1 and seen not in kept else seen


def with_constants(model: ir.Model, changed: Mapping[str, Array], shelf: Shelf = IN_MEMORY) -> ir.Model:
    """The model with other numbers in those constants."""
    clone = model.clone()
    for name, array in changed.items():
        _set_constant(clone.graph, name, array, shelf)
    return clone


def comparable_outputs(graph: Graph) -> tuple[str, ...]:
    """The tensors that prove equality: the outputs, or what the operator that chooses among values reads."""
    names = []
    for port in graph.outputs:
        maker = graph.producer.get(port.name)
        names.append(maker.inputs[0] if maker is not None and maker.key in CHOOSERS else port.name)
    return tuple(dict.fromkeys(names))


def to_proto(model: ir.Model, outputs: Iterable[str] | None = None) -> onnx.ModelProto:
    """Serialise; with `outputs`, for comparing: the model gives those tensors instead of its own outputs, and rounds
    no activations."""
    proto = ir.to_proto(model)
    if outputs is not None:
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
        unrounded(proto)
        settle(proto.graph.node)
    return proto


def stamp(model: ir.Model, request: PruneRequest, model_sha256: str) -> None:
    """Write into the model where it comes from. No time: equal jobs give equal bytes."""
    model.metadata_props["espalier.version"] = version("espalier")
    model.metadata_props["espalier.source_sha256"] = model_sha256
    model.metadata_props["espalier.options"] = request.model_dump_json(by_alias=True, exclude_defaults=True)


def share_again(model: ir.Model, copies: Mapping[str, str]) -> None:
    """Let readers share initializers that were one in the uploaded file and still are equal."""
    known = model.graph.initializers
    for copy, original in copies.items():
        one, other = known[copy], known[original]
        if one.const_value is None or other.const_value is None:
            continue
        if np.array_equal(one.const_value.numpy(), other.const_value.numpy()):
            one.replace_all_uses_with(other)
            del known[copy]


def _constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _set_constant(graph: ir.Graph, name: str, array: Array, shelf: Shelf = IN_MEMORY) -> None:
    value = graph.initializers[name]
    tensor = shelf.tensor(name, array, value.dtype)
    value.const_value = tensor
    value.shape = ir.Shape(array.shape)


def _feed_constant(graph: ir.Graph, node: ir.Node, slot: int, array: Array) -> None:
    """Give one node its own constant at a slot; reuse the initializer where nobody else reads it."""
    if slot >= len(node.inputs):
        node.resize_inputs(slot + 1)
    old = node.inputs[slot]
    if old is not None and old.name in graph.initializers and len(list(old.uses())) == 1:
        _set_constant(graph, str(old.name), array)
    else:
        name = f"espalier.{slot}" if old is None else old.name
        node.replace_input_with(slot, _constant(graph, f"{name}.{node.outputs[0].name}", array))


def _set_attribute(node: ir.Node, name: str, setting: int | tuple[int, ...] | None) -> None:
    match setting:
        case None:
            node.attributes.pop(name, None)
        case int():
            node.attributes[name] = ir.AttrInt64(name, setting)
        case _:
            node.attributes[name] = ir.AttrInt64s(name, setting)


def _resize_values(graph: ir.Graph, gone: Mapping[Axis, Points], after: ShapeOf) -> None:
    """Bring the stated shapes of intermediate values up to date."""
    cut_axes: dict[str, list[int]] = {}
    for name, axis in gone:
        cut_axes.setdefault(name, []).append(axis)
    for node in graph:
        for value in node.outputs:
            if value.name in cut_axes and value.shape is not None:
                dims = list(value.shape)
                for axis in cut_axes[value.name]:
                    # A size that is no number depends on the batch, of which the analysis has seen one.
                    dims[axis] = after(value.name)[axis] if isinstance(dims[axis], int) else ir.SymbolicDim(None)
                value.shape = ir.Shape(dims)
