"""Operators that move values without changing them: Reshape, Flatten, Transpose, Squeeze, Unsqueeze, Concat, Expand,
Tile, DepthToSpace and SpaceToDepth.

A Reshape is read as factors: both shapes are split into runs of equal product, and each run into the finest factors
that both sides share. An axis of one factor is tied to the same factor on the other side; an axis of several is a fork
(see `worker.engine.forks`), so that heads, channel groups and flattened positions are one and the same thing. Where no
common factors exist, silence pins. Concat shifts ties.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import numpy as np
import torch

from worker.engine.graph import Op
from worker.engine.ops.elementwise import tie_broadcast
from worker.engine.ops.rule import Cut, Follow, NoTorchForm, Rule, Tensors, given
from worker.engine.ops.sizes import follow_target, follow_written, tie_target
from worker.engine.ties import Axis, Ties

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


def tie_factors(op: Op, ties: Ties, x: str, y: str) -> None:
    """Tie two tensors that hold the same elements in the same order."""
    if 0 in ties.shape(x):
        return
    for left, right in blocks(ties.shape(x), ties.shape(y)):
        axes = [(x, axis) for axis in left], [(y, axis) for axis in right]
        edges = [_edges(ties, side) for side in axes]
        finest = sorted({edge for side in edges for edge in side})
        if any(larger % smaller for smaller, larger in pairwise(finest)):
            continue  # no common factors: silence pins
        spans = [
            (axis, finest.index(start), finest.index(end))
            for side, edge in zip(axes, edges, strict=True)
            for axis, (start, end) in zip(side, pairwise(edge), strict=True)
        ]
        sizes = [larger // smaller for smaller, larger in pairwise(finest)]
        _tie_spans(op, ties, spans, sizes)


def _edges(ties: Ties, axes: list[Axis]) -> list[int]:
    """Products of the sizes up to each axis."""
    found = [1]
    for axis in axes:
        found.append(found[-1] * ties.size(axis))
    return found


def _tie_spans(op: Op, ties: Ties, spans: list[tuple[Axis, int, int]], sizes: list[int]) -> None:
    """Each axis spans factors `start` to `end`. One factor: it is that factor. Several: a fork."""
    own: dict[int, Axis] = {}
    for axis, start, end in spans:
        if end - start == 1:
            ties.tie(axis, own.setdefault(start, axis))
    for axis, start, end in spans:
        if end - start > 1:
            for factor in range(start, end):
                if factor not in own:
                    own[factor] = ties.imagine(sizes[factor])
            ties.fork(op, axis, tuple(own[factor] for factor in range(start, end)))


def tie_same_elements(op: Op, ties: Ties) -> None:
    tie_factors(op, ties, op.inputs[0], op.outputs[0])


def flatten(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    axis = op.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return (x.reshape(prod(x.shape[:axis]), -1),)


def tie_reshape(op: Op, ties: Ties) -> None:
    tie_same_elements(op, ties)
    if len(op.inputs) > 1:
        tie_target(op, ties, 1, itself=(-1,))
    elif 0 not in ties.shape(op.inputs[0]):
        _pin_unless_free(op, ties)


def _pin_unless_free(op: Op, ties: Ties) -> None:
    """Before opset 5 the target is an attribute, which is not rewritten: only -1 and 0 follow by themselves."""
    for axis, size in enumerate(op.ints("shape")):
        if size > 0:
            ties.pin((op.outputs[0], axis), "computed_shape", f"{op.label()} writes its size as an attribute")


def follow_reshape(op: Op, ties: Ties, after: Cut) -> Follow:
    return follow_target(op, ties, after, 1) if len(op.inputs) > 1 else Follow()


def reshape(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    target = [int(one) for one in given(tensors, 1).tolist()] if len(tensors) > 1 else list(op.ints("shape"))
    if not op.integer("allowzero", 0):
        target = [x.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    return (x.reshape(target),)


def _order(op: Op, rank: int) -> tuple[int, ...]:
    return op.ints("perm", tuple(reversed(range(rank))))


def tie_transpose(op: Op, ties: Ties) -> None:
    x, y = op.inputs[0], op.outputs[0]
    for place, axis in enumerate(_order(op, len(ties.shape(x)))):
        ties.tie((x, axis), (y, place))


def transpose(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    return (x.permute(_order(op, x.ndim)),)


def _listed(op: Op, tensors: Tensors) -> list[int] | None:
    """The axes of Squeeze and Unsqueeze: an attribute, an input since opset 13, or absent."""
    if len(tensors) > 1 and tensors[1] is not None:
        return [int(one) for one in tensors[1].reshape(-1)]
    return list(op.ints("axes")) if "axes" in op.attrs else None


def tie_squeeze(op: Op, ties: Ties) -> None:
    """Without axes it would also drop an axis of which a cut leaves one index: silence pins."""
    if op.input(1) or "axes" in op.attrs:
        tie_same_elements(op, ties)


def squeeze(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, axes = given(tensors, 0), _listed(op, tensors)
    return (x.squeeze() if axes is None else x.squeeze(tuple(axes)),)


def unsqueeze(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, axes = given(tensors, 0), _listed(op, tensors) or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return (x,)


def tie_concat(op: Op, ties: Ties) -> None:
    tie_joined(op, ties, op.inputs)


def tie_joined(op: Op, ties: Ties, parts: Sequence[str]) -> None:
    """The parts, one behind the other, are the output."""
    y = op.outputs[0]
    rank = len(ties.shape(y))
    axis = op.integer("axis", 1) % rank
    joined = ties.points((y, axis))
    start = 0
    for name in parts:
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


def tie_expand(op: Op, ties: Ties) -> None:
    """What is made by stretching is alike throughout: any of it may go, and the target says how much is left."""
    x, y = op.inputs[0], op.outputs[0]
    tie_broadcast(ties, (x,), y)
    ties.speak(*((y, axis) for axis in range(len(ties.shape(y)))))
    tie_target(op, ties, 1, itself=(1,))


def follow_expand(op: Op, ties: Ties, after: Cut) -> Follow:
    return follow_target(op, ties, after, 1)


def expand(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    target = [int(one) for one in given(tensors, 1).reshape(-1)]
    rank = max(x.ndim, len(target))
    own, wanted = [1] * (rank - x.ndim) + list(x.shape), [1] * (rank - len(target)) + target
    return (x.expand([one if other == 1 else other for one, other in zip(own, wanted, strict=True)]),)


def tie_tile(op: Op, ties: Ties) -> None:
    """Copies of an axis, one behind the other: each copy goes with the original."""
    x, y = op.inputs[0], op.outputs[0]
    if len(op.inputs) != 2 or op.inputs[1] not in ties.graph.static:
        return
    for axis, copies in enumerate(ties.seen.small[op.inputs[1]].tolist()):
        own = ties.points((x, axis))
        ties.tie_points(ties.points((y, axis)).reshape(copies, -1), np.tile(own, (copies, 1)))
        ties.speak((x, axis), (y, axis))


def tile(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    if len(tensors) != 2:
        raise NoTorchForm
    return (given(tensors, 0).tile(tuple(given(tensors, 1).tolist())),)


def tie_depth_to_space(op: Op, ties: Ties) -> None:
    """The channels of one output channel lie side by side (CRD) or a whole set of channels apart (DCR)."""
    _tie_depth(op, ties, (op.inputs[0], 1), (op.outputs[0], 1))


def _tie_depth(op: Op, ties: Ties, many: Axis, few: Axis) -> None:
    area = op.integer("blocksize", 1) ** 2
    if op.text("mode", "DCR") == "CRD":
        ties.tie_points(ties.points(many).reshape(-1, area), ties.points(few)[:, None].repeat(area, axis=1))
    else:
        ties.tie_points(ties.points(many).reshape(area, -1), np.tile(ties.points(few), (area, 1)))
    ties.tie((many[0], 0), (few[0], 0))
    ties.speak(many, few)


def depth_to_space(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, size = given(tensors, 0), op.integer("blocksize", 1)
    if op.text("mode", "DCR") == "CRD":
        return (torch.pixel_shuffle(x, size),)
    n, channels, height, width = x.shape
    parts = x.reshape(n, size, size, channels // size**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return (parts.reshape(n, channels // size**2, height * size, width * size),)


def tie_space_to_depth(op: Op, ties: Ties) -> None:
    _tie_depth(op, ties, (op.outputs[0], 1), (op.inputs[0], 1))


def space_to_depth(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, size = given(tensors, 0), op.integer("blocksize", 1)
    if op.text("mode", "DCR") == "CRD":
        return (torch.pixel_unshuffle(x, size),)
    n, channels, height, width = x.shape
    parts = x.reshape(n, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
    return (parts.reshape(n, channels * size**2, height // size, width // size),)


RULES = {
    "Flatten": Rule(tie=tie_same_elements, compute=flatten, passes=True, alias=True),
    "Reshape": Rule(tie=tie_reshape, compute=reshape, follow=follow_reshape, passes=True, alias=True),
    "Transpose": Rule(tie=tie_transpose, compute=transpose, passes=True),
    "Squeeze": Rule(tie=tie_squeeze, compute=squeeze, passes=True, alias=True),
    "Unsqueeze": Rule(tie=tie_same_elements, compute=unsqueeze, passes=True, alias=True),
    "Concat": Rule(tie=tie_concat, compute=concat, follow=follow_written),
    "Expand": Rule(tie=tie_expand, compute=expand, follow=follow_expand, passes=True),
    "Tile": Rule(tie=tie_tile, compute=tile, passes=True),
    "DepthToSpace": Rule(tie=tie_depth_to_space, compute=depth_to_space, passes=True),
    "SpaceToDepth": Rule(tie=tie_space_to_depth, compute=space_to_depth, passes=True),
}
