"""Sizes that are handed on as values: Shape and Size, and the shapes that are computed from them.

Exporters compute the target of a Reshape, an Expand or a Resize from the shapes of other tensors. An entry of such a
target is a number, or the size of an axis somewhere, or not understood. A number follows a cut where it is written
into the file; the size of an axis follows by itself once it is tied to the axis that gets this size; what is not
understood pins. A size that reaches anything else (a scale, a loop) is data, which a cut would change: it pins.
"""

from collections.abc import Iterator
from math import prod

import numpy as np
import torch

from worker.engine.graph import Op
from worker.engine.ops.rule import Cut, Follow, Rule, Tensors, given
from worker.engine.ties import Axis, Ties

Entry = int | Axis | None
TARGETS = {"Reshape": 1, "Expand": 1, "Resize": 3, "ConstantOfShape": 0}  # where each reads the sizes of its output
HANDS_ON = ("Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Identity", "Reshape")


def entries(ties: Ties, name: str) -> list[Entry]:
    """What each element of a small integer tensor is."""
    small = ties.seen.small.get(name)
    if small is not None and name in ties.graph.static:
        return [int(one) for one in small.ravel()]
    unknown: list[Entry] = [None] * prod(ties.seen.shapes.get(name, (0,)))
    op = ties.graph.producer.get(name)
    if op is None:
        return unknown
    match op.key:
        case "Shape":
            return _sizes_of(op, ties)
        case "Concat":
            return [entry for one in op.inputs for entry in entries(ties, one)]
        case "Unsqueeze" | "Squeeze" | "Cast" | "Identity" | "Reshape":
            return entries(ties, op.inputs[0])
        case "Gather":
            index = entries(ties, op.inputs[1])
            source = entries(ties, op.inputs[0])
            flat = len(ties.shape(op.inputs[0])) == 1
            return [source[one] for one in index if isinstance(one, int)] if flat and _numbers(index) else unknown
        case "Slice":
            return _sliced(op, ties) or unknown
        case _:
            return unknown


def _numbers(values: list[Entry]) -> bool:
    return all(isinstance(one, int) for one in values)


def _sizes_of(op: Op, ties: Ties) -> list[Entry]:
    rank = len(ties.shape(op.inputs[0]))
    start, end, _ = slice(op.integer("start", 0), op.integer("end", rank)).indices(rank)
    return [(op.inputs[0], axis) for axis in range(start, end)]


def _sliced(op: Op, ties: Ties) -> list[Entry] | None:
    source = entries(ties, op.inputs[0])
    if "starts" in op.attrs:
        return source[op.ints("starts")[0] : op.ints("ends")[0]]
    settings = [entries(ties, name) for name in (op.inputs[1], op.inputs[2], op.input(4)) if name]
    if len(ties.shape(op.inputs[0])) != 1 or not all(map(_numbers, settings)):
        return None
    start, end, *step = (one[0] for one in settings)
    assert isinstance(start, int)
    assert isinstance(end, int)
    return source[start : end : step[0] if step and isinstance(step[0], int) else 1]


def tie_shape(op: Op, ties: Ties) -> None:
    """Pin the axes whose size reaches anything but the target of a reshaping operator."""
    x = op.inputs[0]
    data = {entry for name in _as_data(op, ties) for entry in entries(ties, name)}
    for axis in range(len(ties.shape(x))):
        if (x, axis) in data:
            ties.pin((x, axis), "size_is_data", f"{op.label()} hands its size on as a value")
        else:
            ties.speak((x, axis))
    ties.speak((op.outputs[0], 0))


def _as_data(op: Op, ties: Ties) -> Iterator[str]:
    """The values that carry sizes of this Shape to where they are more than a size."""
    outputs = {port.name for port in ties.graph.outputs}
    waiting, met = [op.outputs[0]], {op.outputs[0]}
    while waiting:
        name = waiting.pop()
        readers = ties.graph.readers.get(name, ())
        if name in outputs or any(not _harmless(reader, name) for reader in readers):
            yield name
        for reader in readers:
            if reader.key in HANDS_ON and reader.outputs[0] not in met:
                met.add(reader.outputs[0])
                waiting.append(reader.outputs[0])


def _harmless(reader: Op, name: str) -> bool:
    slots = [slot for slot, one in enumerate(reader.inputs) if one == name]
    target = TARGETS.get(reader.key)
    hands_on = reader.key in HANDS_ON and (slots == [0] or reader.key == "Concat")
    return bool(slots) and not reader.captures and (hands_on or slots == [target])


def tie_target(op: Op, ties: Ties, slot: int, itself: tuple[int, ...] = ()) -> None:
    """Tie the output of an operator to where its sizes come from. Entries in `itself` follow a cut unaided."""
    y = op.outputs[0]
    name = op.inputs[slot]
    if name in ties.graph.static:
        return
    maker = ties.graph.producer.get(name)
    written = maker is not None and maker.key == "Concat"
    found = entries(ties, name)
    offset = len(ties.shape(y)) - len(found)
    for place, entry in enumerate(found):
        axis = y, place + offset
        if ties.size(axis) <= 1 or entry in itself:
            continue
        if isinstance(entry, tuple):
            if ties.size(entry) == ties.size(axis):
                ties.tie_points(ties.points(entry), ties.points(axis))  # whether it may go is for others to say
                continue
        elif entry is not None and written:
            _tie_readers(op, ties, place, axis)
            continue
        ties.pin(axis, "computed_shape", f"{op.label()} takes its size from a computation")


def _tie_readers(op: Op, ties: Ties, place: int, axis: Axis) -> None:
    """A number is written once for all that read it: what it sizes is cut alike."""
    name = op.inputs[TARGETS[op.key]]
    for reader in ties.graph.readers[name]:
        slot = TARGETS.get(reader.key)
        rank = len(ties.shape(reader.outputs[0])) - prod(ties.shape(name))
        other = reader.outputs[0], rank + place
        if slot is not None and reader.input(slot) == name and ties.size(other) == ties.size(axis):
            ties.tie_points(ties.points(axis), ties.points(other))
        else:
            ties.pin(axis, "computed_shape", f"{reader.label()} also reads its size")


def follow_target(op: Op, ties: Ties, after: Cut, slot: int) -> Follow:
    """Write new sizes into a constant target shape; entries that follow by themselves (-1, 0, 1) stay."""
    x, y = op.inputs[0], op.outputs[0]
    if op.inputs[slot] not in ties.graph.static or after(y) == ties.shape(y):
        return Follow()
    target = np.atleast_1d(np.array(ties.seen.small[op.inputs[slot]], dtype=np.int64))  # onnxruntime takes a scalar
    offset = len(ties.shape(y)) - len(target)
    for place in range(len(target)):
        copied = op.key == "Reshape" and target[place] == 0 and after(x)[place] != after(y)[place]
        if copied or target[place] == ties.shape(y)[place + offset]:
            target[place] = after(y)[place + offset]
    return Follow(constants={slot: target})


def follow_written(op: Op, ties: Ties, after: Cut) -> Follow:
    """Concat: the numbers among its inputs that are sizes of what its readers make."""
    name = op.outputs[0]
    constants: dict[int, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    for reader in ties.graph.readers.get(name, ()):
        slot = TARGETS.get(reader.key)
        y = reader.outputs[0]
        if slot is None or reader.input(slot) != name or after(y) == ties.shape(y):
            continue
        place = len(ties.shape(y)) - prod(ties.shape(name))
        for number, source in enumerate(op.inputs):
            count = prod(ties.shape(source))
            if source in ties.graph.static:
                old = np.array(ties.seen.small[source])
                same = old == ties.shape(y)[place : place + count]
                new = np.where(same, after(y)[place : place + count], old).astype(old.dtype)
                if not np.array_equal(old, new):
                    constants[number] = new
            place += count
    return Follow(constants=constants)


def shape(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    sizes = list(x.shape)[op.integer("start", 0) : op.integer("end", x.ndim)]
    return (torch.tensor(sizes, dtype=torch.int64, device=x.device),)


def size(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    return (torch.tensor(x.numel(), dtype=torch.int64, device=x.device),)


def say_nothing(op: Op, ties: Ties) -> None:
    """Silence pins every axis."""


def tie_constant_of_shape(op: Op, ties: Ties) -> None:
    """Its elements are alike: what its axes are tied to is for its readers to say."""
    y = op.outputs[0]
    ties.speak(*((y, axis) for axis in range(len(ties.shape(y)))))
    tie_target(op, ties, 0)


def constant_of_shape(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    value = op.attrs.get("value", np.zeros(1, np.float32))
    assert isinstance(value, np.ndarray)
    device = given(tensors, 0).device
    return (torch.from_numpy(value.copy()).to(device).expand(tuple(given(tensors, 0).tolist())).clone(),)


RULES = {
    "Shape": Rule(tie=tie_shape, compute=shape),
    "Size": Rule(tie=say_nothing, compute=size),
    "ConstantOfShape": Rule(tie=tie_constant_of_shape, compute=constant_of_shape),
}
