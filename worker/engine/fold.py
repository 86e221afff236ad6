"""What is computed from constants alone is computed once, and becomes a constant.

Exporters leave weights behind Transpose, Reshape, Cast, Slice and Concat; as initializers they are weights that can be
cut. In: a model whose constants are initializers. Out: the same model with such nodes replaced by their results, under
the names that these had. Left as it is: what is quantised, random, an output of the graph or read by a subgraph only;
what would hold a weight twice because somebody reads the original too; and whatever would make the file much larger.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx
import onnx_ir as ir

from worker.engine.execute import hold, to_numpy
from worker.engine.graph import Array, Graph, Op, freeze
from worker.engine.ops import RULES
from worker.engine.ops.rule import NoTorchForm
from worker.engine.shelf import Shelf

MOVES = ("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Concat")
GROWS = ("ConstantOfShape", "Expand", "Tile")
CALCULATES = (
    *(
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Neg",
        "Abs",
        "Sqrt",
        "Reciprocal",
        "Exp",
        "Pow",
        "Mod",
        "Floor",
        "Ceil",
        "Min",
        "Max",
    ),
    *("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Not", "Where"),
)
FOLDS = (*MOVES, *GROWS, *CALCULATES, "Cast")
LARGE = 1024  # elements of a constant that is not kept twice
AT_LEAST_BYTES = 64 << 20
AT_MOST_TIMES = 4


@dataclass
class _Folded:
    """`results` by name, `twins` from the name of a value to the equal one that stands for it."""

    left: int  # bytes that may still be made
    shelf: Shelf
    results: dict[str, Array] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    made: dict[tuple[object, ...], tuple[str, ...]] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)


def fold_constants(model: ir.Model, shelf: Shelf, left: int | None = None) -> int:
    """Replace, in place. `left` and what is returned are the bytes that may still be made."""
    graph = freeze(model)
    if left is None:
        left = max(AT_LEAST_BYTES, AT_MOST_TIMES * sum(array.nbytes for array in graph.constants.values()))
    folded = _Folded(left, shelf)
    for op in graph.ops:
        _fold(graph, op, folded)
    if folded.ops:
        _replace(model.graph, folded)
    return folded.left


def _fold(graph: Graph, op: Op, folded: _Folded) -> None:
    known = graph.constants.keys() | folded.results.keys()
    names = [folded.twins.get(name, name) for name in op.inputs]
    if not _may_fold(graph, op) or any(name and name not in known for name in names):
        return
    key = (op.key, tuple(names), tuple(sorted((name, _written(value)) for name, value in op.attrs.items())))
    if key in folded.made:
        folded.twins |= dict(zip(op.outputs, folded.made[key], strict=True))
        folded.ops.append(op)
        return
    arrays = [_array(graph, folded, name) for name in names]
    results = computed(op, arrays, folded.left)
    if results is None:
        return
    folded.left -= sum(array.nbytes for array in results)
    folded.results |= dict(zip(op.outputs, map(folded.shelf.keep, results), strict=True))
    folded.made[key] = op.outputs
    folded.ops.append(op)


def _may_fold(graph: Graph, op: Op) -> bool:
    outputs = {port.name for port in graph.outputs}
    if op.key not in FOLDS or op.captures or outputs & set(op.outputs):
        return False
    shared = (name for name in op.inputs if name in graph.constants and graph.constants[name].size > LARGE)
    return all(reader.key in FOLDS and _static(graph, reader) for name in shared for reader in graph.readers[name])


def _static(graph: Graph, op: Op) -> bool:
    return op.outputs[0] in graph.static


def _written(value: object) -> object:
    return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def _array(graph: Graph, folded: _Folded, name: str) -> Array | None:
    return None if not name else folded.results[name] if name in folded.results else graph.constants[name]


def computed(op: Op, arrays: Sequence[Array | None], left: int) -> list[Array] | None:
    """What the node computes; None where torch has no form, or where it is too large."""
    size = max((array.dtype.itemsize for array in arrays if array is not None), default=8)
    given = [array for array in arrays if array is not None]
    if op.key in CALCULATES and any(_is_half(array) for array in given):
        return None  # it would be rounded otherwise than at run time
    try:
        if _elements(op, given) * max(size, 8 if op.key == "Cast" else 1) > left:
            return None
        held = [None if array is None else hold(array, "cpu") for array in arrays]
        if any(isinstance(one, np.ndarray) for one in held):
            return None
        results = RULES[op.key].compute(op, [one for one in held if not isinstance(one, np.ndarray)])
    except (NoTorchForm, ValueError, RuntimeError, IndexError, TypeError, ZeroDivisionError):
        return None  # what is wrong with it is told when the model is run
    kind = _kind(op, given)
    made = [np.asarray(to_numpy(one), order="C") for one in results]
    return made if kind is None else [one.astype(kind, copy=False) for one in made]


def _elements(op: Op, given: Sequence[Array]) -> int:
    """The most elements that the node makes; ValueError where its inputs do not fit."""
    match op.key:
        case "ConstantOfShape":
            return prod(map(int, given[0].ravel()))
        case "Expand":
            return prod(np.broadcast_shapes(given[0].shape, tuple(map(int, given[1].ravel()))))
        case "Tile":
            return given[0].size * prod(map(int, given[1].ravel()))
        case "Gather":
            rows: int = given[0].shape[op.integer("axis", 0)]
            return given[0].size // rows * given[1].size
        case _ if op.key in CALCULATES:
            return prod(np.broadcast_shapes(*(one.shape for one in given)))
        case _:
            return sum(one.size for one in given)


def _is_half(array: Array) -> bool:
    return array.dtype.name in ("float16", "bfloat16")


def _kind(op: Op, given: Sequence[Array]) -> np.dtype[np.generic] | None:
    """The type of the result where torch computes in another: half precision is computed in single."""
    if op.key == "Cast":
        return onnx.helper.tensor_dtype_to_np_dtype(op.integer("to", 0))
    moved = op.key in (*MOVES, "Expand", "Tile")
    return given[0].dtype if moved and _is_half(given[0]) else None


def _replace(graph: ir.Graph, folded: _Folded) -> None:
    values: dict[str, ir.Value] = {}
    for op in reversed(folded.ops):
        for value in op.node.outputs:
            name = folded.twins.get(str(value.name), str(value.name))
            if value.uses():
                value.replace_all_uses_with(values.setdefault(name, _constant(name, folded)))
        read = [value for value in op.node.inputs if value is not None]
        graph.remove(op.node, safe=True)
        for value in read:
            if value.is_initializer() and not value.uses() and not value.is_graph_output():
                graph.initializers.pop(str(value.name), None)
    for value in values.values():
        graph.register_initializer(value)


def _constant(name: str, folded: _Folded) -> ir.Value:
    array = folded.results[name]
    tensor = folded.shelf.tensor(name, array)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
