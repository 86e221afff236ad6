"""Which operators can be fitted anew, what each is to meet, and which of its features belong to which units.

In: a graph, one execution's shapes and the groups. Out: `Reading`s in the order of the graph, and for any other
operator a reason. Left out, and so kept as they are: operators that are no linear map of what they read, and weights
that several operators read or that are not stored as numbers.

A linear operator is judged behind its tail: the BatchNormalization, the constants and the additions that follow it
before anything bends. A shortcut that is added there has been computed before, so that what is left of the sum for this
operator to meet is known. Where nothing takes an offset, one can be added to what the operator gives.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from worker.engine import cost
from worker.engine.axes import Group
from worker.engine.graph import Array, Graph, Op
from worker.engine.observe import Float
from worker.engine.ops import RULES
from worker.engine.ops.linear import Linear
from worker.engine.refit.lanes import lanes_of, lanes_owned
from worker.engine.ties import Points, Seen

MOST_FEATURES = 2304  # of one map: its Gram then takes 42 MB, and what is made of it a few times as much
BROADCASTS = 7  # the opset since which Add does
SMALLEST_SCALE = 1e-6  # of the largest: an output scaled by less says nothing about what feeds it


@dataclass(frozen=True, eq=False)
class Tail:
    """`end` = scale * y + shift + the addends. `judged` is the tensor whose size an error is held against. `bias` moves
    `end` by `bias_scale` for each output: a constant, or what the operator gives, to which an offset can be added."""

    end: str
    judged: str
    scale: Float  # (outputs of all blocks,)
    shift: Float
    addends: tuple[str, ...]
    bias: str
    bias_scale: Float
    rectified: bool = False  # nobody but a ReLU reads `end`


@dataclass(frozen=True, eq=False)
class Reading:
    op: Op
    linear: Linear
    tail: Tail
    units: Mapping[str, Points]  # by group: (units, features of each), or lanes of each
    lanes: Points | None = None  # of a map too wide to be fitted feature by feature: (lanes, taps)
    wide: bool = False  # too wide for that, too, or without lanes: fitted row by row

    @property
    def source(self) -> str:
        return self.op.inputs[self.linear.slot]

    @property
    def slots(self) -> tuple[int, ...]:
        """The input slots at which it reads units."""
        return (self.linear.slot,)

    @property
    def new_bias(self) -> bool:
        """Whether the constant feature needs a bias that the model does not have."""
        return self.tail.bias == self.op.outputs[0]

    @property
    def columns(self) -> int:
        """What the Gram is of: features, or lanes."""
        return self.linear.features if self.lanes is None else len(self.lanes)

    @property
    def taught(self) -> frozenset[str]:
        """The values of the teacher that a fit looks at."""
        own = () if self.lanes is None else (self.source,)
        return frozenset((self.tail.end, self.tail.judged, *own))


def readings(graph: Graph, seen: Seen, groups: Iterable[Group]) -> tuple[Reading, ...]:
    """All operators that can be fitted, in order."""
    groups = tuple(groups)
    found = (reading_of(graph, seen, op, groups) for op in graph.ops)
    return tuple(one for one in found if isinstance(one, Reading))


def new_biases(found: Iterable[Reading]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The values that may get a bias, and the axes that it lies on."""
    return tuple(
        (one.tail.bias, tuple(axis for axis, size in enumerate(one.linear.spread) if size > 1))
        for one in found
        if one.new_bias
    )


def reading_of(graph: Graph, seen: Seen, op: Op, groups: Iterable[Group]) -> Reading | str:
    """An operator as a reading, or why it is none."""
    rule = RULES.get(op.key)
    slots = [slot for slot in (0, 1) if op.input(slot) in graph.static]
    if rule is None or op.captures or len(op.inputs) < 2 or len(slots) != 1:
        return "it holds no weights against what it reads"
    (constant,) = slots
    if (reason := _unfit(graph, op, constant)) is not None:
        return reason
    linear = rule.linear(op, seen.shapes, constant)
    if linear is None:
        return "it is no plain product of its weights with what it reads"
    shift = _shift(graph, linear)
    if shift is None:
        return "its bias is another one in every row"
    units, tail = _units(op, linear, groups), _tail(graph, seen, op, linear, shift)
    if linear.features <= MOST_FEATURES:
        return Reading(op, linear, tail, units)
    lanes = lanes_of(linear, units)
    if lanes is None or len(lanes) > MOST_FEATURES:
        return Reading(op, linear, tail, units, wide=True)
    return Reading(op, linear, tail, {name: lanes_owned(lanes, rows) for name, rows in units.items()}, lanes)


def _unfit(graph: Graph, op: Op, constant: int) -> str | None:
    """Why this weight cannot be changed for this operator alone."""
    weight = op.inputs[constant]
    if weight in graph.constants and not graph.constants[weight].size:
        return "it has no weights"
    if weight not in graph.constants or not cost.is_real(graph.constants[weight]):
        return "its weights are computed, or stored as integers"
    if len(graph.readers[weight]) > 1 or op.inputs.count(weight) > 1:
        return "its weights are read elsewhere too"
    if any(name and name not in graph.constants for name in op.inputs[2:3]):
        return "its bias is computed"
    return None


def _units(op: Op, linear: Linear, groups: Iterable[Group]) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for group in groups:
        for consume in group.consumers:
            if consume.op is op and consume.slot == linear.slot and consume.weight == linear.weight:
                index = group.sites[consume.weight, consume.weight_axis]
                rows = linear.rows_of(consume.weight_axis, index)
                known = found.get(group.name)
                found[group.name] = rows if known is None else np.unique(np.hstack([known, rows]), axis=1)
    return found


def _shift(graph: Graph, linear: Linear) -> Float | None:
    """What the operator's own bias adds to each output; None where that is not the same in every row."""
    if not linear.bias:
        return np.zeros(linear.count)
    own = graph.constants[linear.bias]
    if own.size != np.prod(linear.bias_shape, dtype=int):
        return None
    return _per_output(own.reshape(linear.bias_shape), linear.spread, linear.bias_scale)


def _tail(graph: Graph, seen: Seen, op: Op, linear: Linear, shift: Float) -> Tail:
    """Follow the output as long as what reads it is affine for each output and nobody else reads it."""
    y, count = op.outputs[0], linear.count
    shape, scale, at_first = seen.shapes[y], np.ones(count), shift
    bias, bias_scale = _own_bias(graph, linear), np.full(count, linear.bias_scale)
    if bias:
        shift = np.zeros(count)  # it is a row of the matrix
    outputs = {port.name for port in graph.outputs}
    addends: list[str] = []
    judged = y
    while y not in outputs and len(readers := graph.readers.get(y, ())) == 1:
        then = readers[0]
        if not then.outputs or seen.shapes.get(then.outputs[0]) != shape or then.inputs.count(y) != 1:
            break
        step = None if addends else _affine(graph, then, y, linear.spread)
        if step is not None:
            factor, offset, home = step
            scale, shift, bias_scale = scale * factor, shift * factor + offset, bias_scale * factor
            if not bias and home and len(graph.readers[home]) == 1:
                bias, bias_scale = home, np.ones(count)
        elif then.key == "Add" and seen.shapes.get(other := _other(then, y)) == shape:
            judged = then.outputs[0]
            maker = graph.producer.get(other)
            if maker is not None and maker.index > op.index:
                break  # the sum is to be met by what comes last
            addends.append(other)
        else:
            break
        y = then.outputs[0]
        judged = y
    if np.abs(scale).min(initial=1.0) <= SMALLEST_SCALE * np.abs(scale).max(initial=1.0):
        # An output that is scaled to nothing cannot be read back from the end.
        one = np.ones(count)
        own = _own_bias(graph, linear)
        return Tail(op.outputs[0], op.outputs[0], one, 0 * one if own else at_first, (), own or _offset(op), one)
    last = graph.readers.get(y, ())
    rectified = y not in outputs and len(last) == 1 and last[0].key == "Relu"
    if not bias:
        bias, bias_scale = _offset(op), scale
    return Tail(y, judged, scale, shift, tuple(addends), bias, bias_scale, rectified)


def _other(op: Op, one: str) -> str:
    return op.inputs[1] if op.inputs[0] == one else op.inputs[0]


def _offset(op: Op) -> str:
    """What an operator gives can be moved where addition broadcasts."""
    return op.outputs[0] if op.opset >= BROADCASTS else ""


def _own_bias(graph: Graph, linear: Linear) -> str:
    """The operator's own bias, where it has a number for each output that nobody else reads."""
    name = linear.bias
    if name not in graph.constants or graph.constants[name].size != linear.count or linear.bias_scale == 0.0:
        return ""
    return name if len(graph.readers[name]) == 1 else ""


def _affine(graph: Graph, op: Op, y: str, spread: tuple[int, ...]) -> tuple[Float, Float, str] | None:
    """What an operator multiplies each output by and adds to it, and the constant that it adds."""
    count = int(np.prod(spread))
    one, zero = np.ones(count), np.zeros(count)
    if op.key == "BatchNormalization":
        values = [graph.constants.get(name) for name in op.inputs[1:5]]
        if spread[1] != count or any(value is None for value in values) or op.integer("training_mode", 0):
            return None
        scale, beta, mean, var = (value.astype(np.float64) for value in values if value is not None)
        factor: Float = scale / np.sqrt(var + op.number("epsilon", 1e-5))
        return factor, beta - factor * mean, op.inputs[2]
    if op.key not in ("Add", "Sub", "Mul", "Div") or len(op.inputs) != 2:
        return None
    name = _other(op, y)
    values_of = _per_output(graph.constants.get(name), spread)
    if values_of is None or (op.key in ("Sub", "Div") and op.inputs[0] != y):
        return None
    match op.key:
        case "Add":
            return one, values_of, name if graph.constants[name].size == count else ""
        case "Sub":
            return one, -values_of, ""
        case "Mul":
            return values_of, zero, ""
        case _:
            return (1.0 / values_of, zero, "") if np.all(values_of) else None


def _per_output(array: Array | None, spread: tuple[int, ...], factor: float = 1.0) -> Float | None:
    """A constant that is one number, or one for each output; None where it is anything else."""
    if array is None or not cost.is_real(array) or array.ndim > len(spread):
        return None
    try:
        return factor * np.broadcast_to(array.astype(np.float64), spread).ravel()
    except ValueError:
        return None
