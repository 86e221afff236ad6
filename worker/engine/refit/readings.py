"""Which operators can be fitted anew, what each is to meet, and which of its features belong to which units.

In: a graph, one execution's shapes and the groups. Out: `Reading`s in the order of the graph. Left out, and so kept as
they are: operators that are no linear map of what they read, and weights that several operators read or that are not
stored as numbers.

A linear operator is judged behind its tail: the BatchNormalization, the constants and the additions that follow it
before anything bends. A shortcut that is added there has been computed before, so that what is left of the sum for this
operator to meet is known.
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
SMALLEST_SCALE = 1e-6  # of the largest: an output scaled by less says nothing about what feeds it


@dataclass(frozen=True, eq=False)
class Tail:
    """`end` = scale * y + shift + the addends. `judged` is the tensor whose size an error is held against. `bias` is a
    constant that moves `end` by `bias_scale` for each output; "" where there is none."""

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

    @property
    def source(self) -> str:
        return self.op.inputs[0]

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
    found = []
    for op in graph.ops:
        rule = RULES.get(op.key)
        if rule is None or not op.inputs or op.inputs[0] in graph.static or not _own_weight(graph, op):
            continue
        linear = rule.linear(op, seen.shapes)
        if linear is None:
            continue
        units, lanes = _units(op, linear, groups), None
        if linear.features > MOST_FEATURES:
            lanes = lanes_of(linear, units)
            if lanes is None or len(lanes) > MOST_FEATURES:
                continue
            units = {name: lanes_owned(lanes, rows) for name, rows in units.items()}
        found.append(Reading(op, linear, _tail(graph, seen, op, linear), units, lanes))
    return tuple(found)


def _own_weight(graph: Graph, op: Op) -> bool:
    weight = op.input(1)
    held = weight in graph.constants and cost.is_real(graph.constants[weight])
    held = held and all(not name or name in graph.constants for name in op.inputs[2:3])
    return held and len(graph.readers[weight]) == 1 and op.inputs.count(weight) == 1


def _units(op: Op, linear: Linear, groups: Iterable[Group]) -> dict[str, Points]:
    found = {}
    for group in groups:
        for consume in group.consumers:
            if consume.op is op and consume.slot == 0 and consume.weight == linear.weight:
                found[group.name] = linear.rows_of(group.sites[consume.weight, consume.weight_axis])
    return found


def _tail(graph: Graph, seen: Seen, op: Op, linear: Linear) -> Tail:
    """Follow the output as long as what reads it is affine for each output and nobody else reads it."""
    y, count = op.outputs[0], linear.blocks * linear.outputs
    shape, scale, shift = seen.shapes[y], np.ones(count), np.zeros(count)
    bias, bias_scale = _own_bias(graph, linear, count), np.full(count, linear.bias_scale)
    if linear.bias and not bias:
        own = _per_output(graph.constants[linear.bias], linear.axis, len(shape), count)
        shift = shift + linear.bias_scale * (0.0 if own is None else own)
    outputs = {port.name for port in graph.outputs}
    addends: list[str] = []
    judged = y
    while y not in outputs and len(readers := graph.readers.get(y, ())) == 1:
        then = readers[0]
        if not then.outputs or seen.shapes.get(then.outputs[0]) != shape or then.inputs.count(y) != 1:
            break
        step = None if addends else _affine(graph, then, y, linear.axis, len(shape), count)
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
        one = np.ones(count)  # an output that is scaled to nothing cannot be read back from the end
        return Tail(op.outputs[0], op.outputs[0], one, 0 * one, (), _own_bias(graph, linear, count), one)
    last = graph.readers.get(y, ())
    rectified = y not in outputs and len(last) == 1 and last[0].key == "Relu"
    return Tail(y, judged, scale, shift, tuple(addends), bias, bias_scale, rectified)


def _other(op: Op, one: str) -> str:
    return op.inputs[1] if op.inputs[0] == one else op.inputs[0]


def _own_bias(graph: Graph, linear: Linear, count: int) -> str:
    """The operator's own bias, where it has a number for each output that nobody else reads."""
    name = linear.bias
    if name not in graph.constants or graph.constants[name].size != count or linear.bias_scale == 0.0:
        return ""
    return name if len(graph.readers[name]) == 1 and graph.constants[name].shape[-1] == count else ""


def _affine(graph: Graph, op: Op, y: str, axis: int, rank: int, count: int) -> tuple[Float, Float, str] | None:
    """What an operator multiplies each output by and adds to it, and the constant that it adds."""
    one, zero = np.ones(count), np.zeros(count)
    if op.key == "BatchNormalization":
        values = [graph.constants.get(name) for name in op.inputs[1:5]]
        if axis != 1 or any(value is None for value in values) or op.integer("training_mode", 0):
            return None
        scale, beta, mean, var = (value.astype(np.float64) for value in values if value is not None)
        factor: Float = scale / np.sqrt(var + op.number("epsilon", 1e-5))
        return factor, beta - factor * mean, op.inputs[2]
    if op.key not in ("Add", "Sub", "Mul", "Div") or len(op.inputs) != 2:
        return None
    name = _other(op, y)
    values_of = _per_output(graph.constants.get(name), axis, rank, count)
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


def _per_output(array: Array | None, axis: int, rank: int, count: int) -> Float | None:
    """A constant that is one number, or one for each output; None where it is anything else."""
    if array is None or not cost.is_real(array) or array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(size != 1 for place, size in enumerate(shape) if place != axis) or shape[axis] not in (1, count):
        return None
    return np.broadcast_to(array.astype(np.float64).ravel(), (count,)).copy()
