"""Shapes as far as the file settles them: every size a number, or a product of sizes that are open.

One walk over the graph follows shapes and the lists of sizes that are computed from them, so that the target of a
Reshape deep in the network, computed from the shape of what earlier ones made, still is known but for the samples.

In: a frozen graph, which believes nothing that the file says of values between. Out: `Settled`. Refused: nothing; what
cannot be followed is a size that equals no other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, TypeProto

from worker.engine.extents import Entries, Size, Sizes, arithmetic, plain, product
from worker.engine.fold import FOLDS, computed
from worker.engine.graph import Array, Graph, Op
from worker.engine.ops import RULES
from worker.engine.ops.elementwise import tie_first

LONGEST = 64  # elements of a list that may hold sizes
LEFT_BYTES = 1 << 16  # what one such list may take
INTEGERS = (TensorProto.INT64, TensorProto.INT32)
NOT_INFERRED = (
    onnx.shape_inference.InferenceError, onnx.checker.ValidationError, onnx.defs.SchemaError, RuntimeError, ValueError,
    TypeError,
)  # fmt: skip
SAME_SHAPE = frozenset(key for key, rule in RULES.items() if rule.tie is tie_first) - {"Cast", "CastLike", "Dropout"}


@dataclass
class Settled:
    """`shapes` of values of known rank; `numbers`: small values that follow from the file alone."""

    graph: Graph
    shapes: dict[str, Sizes] = field(default_factory=dict)
    numbers: dict[str, Array] = field(default_factory=dict)
    lists: dict[str, Entries] = field(default_factory=dict)  # values of one axis or none, of which some are open
    kinds: dict[str, int] = field(default_factory=dict)  # ONNX's number for the type of the elements
    fresh: "count[int]" = field(default_factory=count)

    def another(self) -> Size:
        return Size(1, (f"?{next(self.fresh)}",))

    def entries(self, name: str) -> Entries | None:
        """The elements of a list of sizes."""
        if name in self.numbers:
            array = self.numbers[name]
            return tuple(map(Size, array.ravel().tolist())) if array.dtype.kind == "i" and array.ndim < 2 else None
        return self.lists.get(name)

    def ints(self, name: str) -> list[int] | None:
        """Whole numbers that are known."""
        found = self.entries(name) if name else None
        return None if found is None else plain(found)


def settle(model: ir.Model, graph: Graph) -> Settled:
    """Walk the graph of a model once."""
    found = Settled(graph)
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        name = str(value.name)
        if value.shape is not None and value.dtype is not None:
            found.kinds[name] = int(value.dtype)
            # A name that stands at several axes is not believed to mean one size.
            found.shapes[name] = tuple(Size(dim) if isinstance(dim, int) else found.another() for dim in value.shape)
    found.numbers |= {name: array for name, array in graph.constants.items() if array.size <= LONGEST}
    for op in graph.ops:
        _follow_numbers(op, found)
        _follow_shapes(op, found)
    return found


# ---- lists of sizes


def _follow_numbers(op: Op, found: Settled) -> None:
    arrays = [found.numbers.get(name) for name in op.inputs]
    y = op.outputs[0]
    if op.key in FOLDS and all(not name or one is not None for name, one in zip(op.inputs, arrays, strict=True)):
        results = computed(op, arrays, LEFT_BYTES)
        if results is not None and all(one.size <= LONGEST for one in results):
            found.numbers |= {name: one for name, one in zip(op.outputs, results, strict=True) if name}
        return
    sizes = _sizes(op, found)
    if sizes is None or len(sizes) > LONGEST:
        return
    known = plain(sizes)
    if known is None:
        found.lists[y] = sizes
    else:
        kind = np.int32 if _kind(op, found) == TensorProto.INT32 else np.int64
        found.numbers[y] = np.array(known[0] if _is_single(op, found) else known, kind)


def _is_single(op: Op, found: Settled) -> bool:
    """Whether what `_sizes` gives is one number without an axis."""
    match op.key:
        case "Gather":
            return found.numbers[op.inputs[1]].ndim == 0
        case "Squeeze" | "Size":
            return True
        case "Unsqueeze" | "Concat" | "Shape" | "Slice" | "Reshape" | "Where":
            return False
        case _:
            return all(found.shapes.get(name) == () for name in op.inputs)


def _sizes(op: Op, found: Settled) -> Entries | None:
    """What a computation on sizes gives, of which some are open. None where it is no list."""
    if op.key == "Shape":
        shape = found.shapes.get(op.inputs[0])
        return None if shape is None else shape[op.integer("start", 0) : op.integer("end", len(shape))]
    if op.key == "Size":
        shape = found.shapes.get(op.inputs[0])
        return None if shape is None else (product(shape),)
    given = [found.entries(name) for name in op.inputs]
    first = given[0] if given else None
    if op.key == "Where":
        return _without_minus_one(op, found)
    if first is None:
        return None
    match op.key:
        case "Concat" if all(one is not None for one in given):
            return tuple(size for one in given if one is not None for size in one)
        case "Identity":
            return first
        case "Cast" if op.integer("to", 0) in INTEGERS:
            return first
        case "Reshape" if given[1] is not None and len(given[1]) == 1:
            return first
        case "Unsqueeze" | "Squeeze" if len(first) == 1 and _axes(op, found) == [0]:
            return first
        case "Gather":
            places = found.ints(op.inputs[1])
            within = places is not None and all(-len(first) <= one < len(first) for one in places)
            return tuple(first[one] for one in places or ()) if within else None
        case "Slice":
            return _sliced(op, found, first)
        case "Mul" | "Div" | "Add" | "Sub" if given[1] is not None:
            return arithmetic(op.key, first, given[1])
        case _:
            return None


def _axes(op: Op, found: Settled) -> list[int] | None:
    """Those of Squeeze and Unsqueeze, where it takes or gives a list of one axis."""
    if len(found.shapes.get(op.inputs[0], (Size(0),) * 2)) > (op.key == "Squeeze"):
        return None
    axes = list(op.ints("axes")) or found.ints(op.input(1))
    return None if axes is None else [0 if axis == -1 else axis for axis in axes]


def _sliced(op: Op, found: Settled, source: Entries) -> Entries | None:
    starts = list(op.ints("starts")) or found.ints(op.input(1))
    ends = list(op.ints("ends")) or found.ints(op.input(2))
    steps = found.ints(op.input(4)) if op.input(4) else [1]
    if not starts or not ends or not steps or len(starts) != 1 or steps[0] == 0:
        return None
    return source[slice(starts[0], ends[0], steps[0])]


def _without_minus_one(op: Op, found: Settled) -> Entries | None:
    """Where(sizes == -1, 1, sizes), as torch writes the target of an expand: an open size is never negative."""
    equal = found.graph.producer.get(op.inputs[0])
    sizes, ones = found.entries(op.inputs[2]), found.ints(op.inputs[1])
    if equal is None or equal.key != "Equal" or sizes is None or ones is None or op.inputs[2] not in equal.inputs:
        return None
    other = next((found.ints(name) for name in equal.inputs if name != op.inputs[2]), None)
    if other is None or set(other) != {-1} or set(ones) != {1}:
        return None
    return tuple(Size(1) if size == Size(-1) else size for size in sizes)


# ---- shapes


def _follow_shapes(op: Op, found: Settled) -> None:
    own = _shaped_by_hand(op, found)
    if own is not None:
        found.shapes[op.outputs[0]] = own
        found.kinds[op.outputs[0]] = _kind(op, found)
        return
    try:
        inferred = _inferred(op, found)
    except NOT_INFERRED:
        return  # it is a help: onnxruntime runs more than onnx infers
    for name, kind in inferred.items():
        tensor = kind.tensor_type
        if kind.HasField("tensor_type") and name:
            found.kinds[name] = tensor.elem_type
            if tensor.HasField("shape"):
                found.shapes[name] = tuple(_read(dim, found) for dim in tensor.shape.dim)


def _kind(op: Op, found: Settled) -> int:
    if op.key in ("Shape", "Size"):
        return TensorProto.INT64
    if op.key == "Cast":
        return op.integer("to", 0)
    if op.key == "ConstantOfShape":
        value = op.attrs.get("value")
        return int(onnx.helper.np_dtype_to_tensor_dtype(value.dtype)) if isinstance(value, np.ndarray) else 1
    return found.kinds.get(op.inputs[0], TensorProto.UNDEFINED)


def _shaped_by_hand(op: Op, found: Settled) -> Sizes | None:
    """Where sizes are given as a list that may hold open ones, and where nothing changes."""
    shape = found.shapes.get(op.inputs[0]) if op.inputs else None
    target = found.entries(op.input(1)) if len(op.inputs) > 1 else None
    if op.key in SAME_SHAPE:
        return shape
    if op.key == "Reshape" and shape is not None and target is not None:
        return _reshaped(shape, target, bool(op.integer("allowzero", 0)), found)
    if op.key == "Flatten" and shape is not None:
        axis = op.integer("axis", 1)
        return product(shape[:axis]), product(shape[axis:])
    if op.key == "Expand" and shape is not None and target is not None:
        return _expanded(shape, target, found)
    sizes = {"ConstantOfShape": 0, "Resize": 3}.get(op.key)
    if sizes is not None and op.input(sizes) and "axes" not in op.attrs:
        wanted = found.entries(op.inputs[sizes])
        return None if wanted is None else tuple(size or found.another() for size in wanted)
    return None


def _reshaped(shape: Sizes, target: Entries, zero_is_zero: bool, found: Settled) -> Sizes | None:
    made = [size or found.another() for size in target]
    for place, size in enumerate(made):
        if size == Size(0) and not zero_is_zero:
            if place >= len(shape):
                return None
            made[place] = shape[place]
    if Size(-1) in made:
        rest = [size for size in made if size != Size(-1)]
        left = product(shape).over(product(rest))
        made[made.index(Size(-1))] = found.another() if left is None else left
    return tuple(made)


def _expanded(shape: Sizes, target: Entries, found: Settled) -> Sizes:
    rank = max(len(shape), len(target))
    one = (Size(1),)
    pairs = zip(one * (rank - len(shape)) + shape, (*one * (rank - len(target)), *target), strict=True)
    return tuple(_broadcast(own, wanted, found) for own, wanted in pairs)


def _broadcast(own: Size, wanted: Size | None, found: Settled) -> Size:
    if wanted is not None and (own == wanted or Size(1) in (own, wanted)):
        return own if wanted == Size(1) else wanted
    numbers = [size for size in (own, wanted) if size is not None and not size.open and size.number > 1]
    return numbers[0] if numbers else found.another()


def _inferred(op: Op, found: Settled) -> Mapping[str, TypeProto]:
    """What ONNX's own inference says of one node."""
    node = op.node
    if any(name and name not in found.kinds for name in op.inputs):
        return {}  # behind an operator that ONNX does not know
    types, data = {}, {}
    for name in op.inputs:
        if name and name in found.kinds:
            types[name] = _type(found.kinds[name], found.shapes.get(name))
        if name in found.numbers:
            data[name] = onnx.numpy_helper.from_array(found.numbers[name], name)
    schema = onnx.defs.get_schema(node.op_type, op.opset, "" if node.domain == "ai.onnx" else node.domain)
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in found.graph.opsets.items()]
    proto = ir.serde.serialize_node(node)
    known: Mapping[str, TypeProto] = onnx.shape_inference.infer_node_outputs(
        schema, proto, types, data, None, opsets, found.graph.ir_version
    )
    return known


def _type(kind: int, shape: Sizes | None) -> TypeProto:
    made = TypeProto()
    made.tensor_type.elem_type = kind
    if shape is None:
        return made
    made.tensor_type.shape.SetInParent()
    for size in shape:
        dim = made.tensor_type.shape.dim.add()
        if size.open:
            dim.dim_param = "\t".join((str(size.number), *size.open))
        else:
            dim.dim_value = size.number
    return made


def _read(dim: onnx.TensorShapeProto.Dimension, found: Settled) -> Size:
    if dim.HasField("dim_value"):
        return Size(dim.dim_value)
    number, *names = dim.dim_param.split("\t")
    return Size(int(number), tuple(names)) if names else found.another()
