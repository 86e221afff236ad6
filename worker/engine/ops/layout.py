"""Operators that move values without changing them: Flatten, Reshape of the flatten kind, Concat, Shape.

Flattening (channels, height, width) repeats a channel's tie over its positions; Concat shifts ties; Shape hands a
size on as data, which a cut would change.
"""

from math import prod

import numpy as np
import torch

from worker.engine.graph import Op
from worker.engine.ops.rule import Follow, NoTorchForm, Rule, ShapeOf, Tensors, given
from worker.engine.ties import Ties

Block = tuple[list[int], list[int]]  # axes of the input and of the output that hold the same elements


def blocks(source: tuple[int, ...], target: tuple[int, ...]) -> list[Block]:
    """Split two shapes of equal size into the shortest runs of equal product, axes of size one left out."""
    a = [axis for axis, size in enumerate(source) if size != 1]
    b = [axis for axis, size in enumerate(target) if size != 1]
    found: list[Block] = []
    while a and b:
        left, right = [a.pop(0)], [b.pop(0)]
        while prod(source[i] for i in left) != prod(target[i] for i in right):
            if prod(source[i] for i in left) < prod(target[i] for i in right):
                left.append(a.pop(0))
            else:
                right.append(b.pop(0))
        found.append((left, right))
    return found


def _tie_blocks(op: Op, ties: Ties) -> None:
    """One axis to one: a tie. Several to one: the first carries, the others stay. One to several: silence pins."""
    x, y = op.inputs[0], op.outputs[0]
    source, target = ties.shape(x), ties.shape(y)
    if 0 in source:
        return
    for left, right in blocks(source, target):
        if len(right) > 1:
            continue
        if len(left) == 1:
            ties.tie((x, left[0]), (y, right[0]))
            continue
        carrier = ties.points((x, left[0]))
        flat = ties.points((y, right[0])).reshape(len(carrier), -1)
        ties.tie_points(flat, carrier[:, None].repeat(flat.shape[1], axis=1))
        ties.speak((x, left[0]), (y, right[0]))


def flatten(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    axis = op.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return (x.reshape(prod(x.shape[:axis]), -1),)


def tie_reshape(op: Op, ties: Ties) -> None:
    _tie_blocks(op, ties)
    if op.inputs[1] in ties.graph.static:
        return
    # The target is computed at run time: only a dimension written as -1 follows a cut by itself.
    entries = _entries(op, ties)
    for axis, size in enumerate(ties.shape(op.outputs[0])):
        if size > 1 and (entries is None or entries[axis] != -1):
            ties.pin((op.outputs[0], axis), "computed_shape", f"{op.label()} takes its size from a computation")


def _entries(op: Op, ties: Ties) -> list[int | None] | None:
    """The entries of a computed target shape that are constants, or None where its making is not understood."""
    maker = ties.graph.producer.get(op.inputs[1])
    if maker is None or maker.key != "Concat":
        return None
    entries: list[int | None] = []
    for name in maker.inputs:
        size = prod(ties.shape(name))
        known = name in ties.graph.static and name in ties.seen.small
        entries += [int(one) for one in ties.seen.small[name].ravel()] if known else [None] * size
    return entries


def follow_reshape(op: Op, ties: Ties, after: ShapeOf) -> Follow:
    """Write new sizes into a constant target shape; -1 and 0 follow by themselves."""
    y = op.outputs[0]
    if after(y) == ties.shape(y) or op.inputs[1] not in ties.graph.static:
        return Follow()
    target = np.array(ties.seen.small[op.inputs[1]], dtype=np.int64)
    for axis, (old, new) in enumerate(zip(ties.shape(y), after(y), strict=True)):
        if old != new and target[axis] > 0:
            target[axis] = new
    return Follow(constants={1: target})


def reshape(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    target = [int(one) for one in given(tensors, 1).tolist()]
    if not op.integer("allowzero", 0):
        target = [x.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    return (x.reshape(target),)


def tie_concat(op: Op, ties: Ties) -> None:
    y = op.outputs[0]
    rank = len(ties.shape(y))
    axis = op.integer("axis", 1) % rank
    joined = ties.points((y, axis))
    start = 0
    for name in op.inputs:
        for other in range(rank):
            if other != axis:
                ties.tie((name, other), (y, other))
        part = ties.points((name, axis))
        ties.tie_points(part, joined[start : start + len(part)])
        ties.speak((name, axis))
        start += len(part)
    ties.speak((y, axis))


def concat(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    return (torch.cat([one for one in tensors if one is not None], dim=op.integer("axis", 1)),)


def tie_shape(op: Op, ties: Ties) -> None:
    """Sizes that are handed on as data must not change, except those that no reader picks."""
    x = op.inputs[0]
    rank = len(ties.shape(x))
    picked = _picked(op, ties, rank)
    for axis in range(rank):
        if axis in picked:
            ties.pin((x, axis), "size_is_data", f"{op.label()} hands its size on as a value")
        else:
            ties.speak((x, axis))


def _picked(op: Op, ties: Ties, rank: int) -> set[int]:
    everything = set(range(rank))
    if op.integer("start", 0) or "end" in op.attrs:
        return everything
    picked: set[int] = set()
    for reader in ties.graph.readers.get(op.outputs[0], ()):
        index = ties.seen.small.get(reader.input(1))
        if reader.key != "Gather" or reader.input(0) != op.outputs[0] or index is None:
            return everything
        picked |= {int(one) % rank for one in index.ravel()}
    return picked


def shape(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    if op.integer("start", 0) or "end" in op.attrs:
        raise NoTorchForm
    return (torch.tensor(list(given(tensors, 0).shape), dtype=torch.int64),)


RULES = {
    "Flatten": Rule(tie=_tie_blocks, compute=flatten, passes=True, alias=True),
    "Reshape": Rule(tie=tie_reshape, compute=reshape, follow=follow_reshape, passes=True, alias=True),
    "Concat": Rule(tie=tie_concat, compute=concat, passes=False),
    "Shape": Rule(tie=tie_shape, compute=shape),
}
