"""Operators that take parts of an axis or add to it: Split, Slice, Gather, Pad.

Each output index is tied to the input index that it shows. What is not shown may go by itself; what Pad adds is a
constant, and goes with whatever it is added to. Sizes, bounds, indices and pads follow a cut. Gather of a constant
table makes units along the table's other axes (embeddings). With a step other than one, runs of that length go whole.
Padding that repeats or reflects, and settings that are computed, pin the axis.
"""

import numpy as np
import torch
import torch.nn.functional as F

from worker.engine.graph import Op
from worker.engine.ops.convolution import is_channels_last
from worker.engine.ops.elementwise import tie_others
from worker.engine.ops.rule import Cut, Follow, NoTorchForm, Rule, Tensors, given, optional
from worker.engine.ties import Axis, Pin, Ties


def _known(op: Op, ties: Ties, slot: int, attr: str) -> list[int] | None:
    """A setting that is an attribute in old opsets and an input in new ones; None where it is computed or absent."""
    if attr in op.attrs:
        return list(op.ints(attr))
    name = op.input(slot)
    if not name or name not in ties.graph.static or name not in ties.seen.small:
        return None
    return [int(one) for one in ties.seen.small[name].ravel()]


def tie_split(op: Op, ties: Ties) -> None:
    x = op.inputs[0]
    axis = op.integer("axis", 0) % len(ties.shape(x))
    for y in op.outputs:
        tie_others(ties, x, y, {axis})
    if op.input(1) and _known(op, ties, 1, "split") is None:
        return
    points, start = ties.points((x, axis)), 0
    for y in op.outputs:
        part = ties.points((y, axis))
        ties.tie_points(points[start : start + len(part)], part)
        ties.speak((y, axis))
        start += len(part)
    ties.speak((x, axis))


def follow_split(op: Op, ties: Ties, after: Cut) -> Follow:
    """Sizes are written out where a cut changes them, for parts may become unequal."""
    x = op.inputs[0]
    axis = op.integer("axis", 0) % len(ties.shape(x))
    if after(x)[axis] == ties.shape(x)[axis]:
        return Follow()
    sizes = tuple(after(y)[axis] for y in op.outputs)
    if op.opset < 13:
        return Follow(attrs={"split": sizes})
    return Follow(attrs={"num_outputs": None}, constants={1: np.array(sizes, np.int64)})


def split(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, sizes = given(tensors, 0), optional(tensors, 1)
    axis = op.integer("axis", 0)
    if sizes is not None or "split" in op.attrs:
        listed = op.ints("split") if sizes is None else tuple(int(one) for one in sizes)
        return torch.split_with_sizes(x, listed, dim=axis)
    share = -(-x.shape[axis] // len(op.outputs))
    return torch.split_with_sizes(
        x, [share] * (len(op.outputs) - 1) + [x.shape[axis] - share * (len(op.outputs) - 1)], axis
    )


def _slices(op: Op, ties: Ties) -> dict[int, tuple[int, int, int]] | None:
    """(start, end, step) of each sliced axis; None where they are computed."""
    shape = ties.shape(op.inputs[0])
    starts, ends = _known(op, ties, 1, "starts"), _known(op, ties, 2, "ends")
    axes, steps = _known(op, ties, 3, "axes"), _known(op, ties, 4, "steps")
    computed = (op.input(3) and axes is None) or (op.input(4) and steps is None)
    if starts is None or ends is None or computed:
        return None
    axes = list(range(len(starts))) if axes is None else [axis % len(shape) for axis in axes]
    steps = steps or [1] * len(starts)
    found = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        low, high, _ = slice(start, end, step).indices(shape[axis])
        found[axis] = low, high, step
    return found


def tie_slice(op: Op, ties: Ties) -> None:
    x, y = op.inputs[0], op.outputs[0]
    slices = _slices(op, ties)
    if slices is None:
        known = _known(op, ties, 3, "axes")
        if known is None:
            return
        tie_others(ties, x, y, {axis % len(ties.shape(x)) for axis in known})
        return
    tie_others(ties, x, y, set(slices))
    for axis, (start, end, step) in slices.items():
        if shown := range(start, end, step):
            first, last = sorted((shown[0] // abs(step), shown[-1] // abs(step)))
            met = np.arange(first * abs(step), min((last + 1) * abs(step), ties.size((x, axis))))
            runs = met // abs(step) - first
            points = ties.points((y, axis))
            ties.tie_points(ties.points((x, axis))[met], points[runs if step > 0 else len(points) - 1 - runs])
            ties.speak((x, axis), (y, axis))


def follow_slice(op: Op, ties: Ties, after: Cut) -> Follow:
    x = op.inputs[0]
    slices = _slices(op, ties)
    changed = {axis for axis in slices or () if after(x)[axis] != ties.shape(x)[axis]}
    if slices is None or not changed:
        return Follow()
    starts, ends = list(_known(op, ties, 1, "starts") or ()), list(_known(op, ties, 2, "ends") or ())
    for place, (axis, (start, end, step)) in enumerate(slices.items()):
        shown = range(start, end, step)
        if axis in changed and shown:
            starts[place], ends[place] = _bounds(shown, (x, axis), ties.size((x, axis)), after)
    if "starts" in op.attrs:
        return Follow(attrs={"starts": tuple(starts), "ends": tuple(ends)})
    kinds = [ties.seen.small[op.inputs[slot]].dtype for slot in (1, 2)]
    return Follow(constants={1: np.array(starts, kinds[0]), 2: np.array(ends, kinds[1])})


def _bounds(shown: range, axis: Axis, size: int, after: Cut) -> tuple[int, int]:
    """Start and end after a cut. Runs as long as the step, counted from the front of the axis, went whole."""
    run = abs(shown.step)
    first, last = (one // run * run for one in (shown[0], shown[-1]))  # where their runs begin
    start = after.before(axis, first) + shown[0] % run
    if shown.step > 0:
        return start, after.before(axis, min(last + run, size))
    gone = after.before(axis, min(first + run, size)) == after.before(axis, first)
    end = after.before(axis, last) - 1
    return start - run * gone, end if end >= 0 else -size - 1  # -1 would be the last index


def slice_(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)

    def setting(slot: int, attr: str) -> list[int] | None:
        value = optional(tensors, slot)
        return [int(one) for one in value] if value is not None else list(op.ints(attr)) or None

    starts, ends = setting(1, "starts") or [], setting(2, "ends") or []
    axes = setting(3, "axes") or list(range(len(starts)))
    steps = setting(4, "steps") or [1] * len(starts)
    channels_last = is_channels_last(x)
    if channels_last:  # slopes are then made in that order too; to add up two orders takes ten times as long
        x, axes = x.movedim(1, -1), [(0, x.ndim - 1, *range(1, x.ndim - 1))[axis] for axis in axes]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        low, high, _ = slice(start, end, step).indices(x.shape[axis])
        if step > 0:
            whole = [slice(None)] * (axis % x.ndim)
            x = x[(*whole, slice(low, high, step))]
        else:
            x = x.index_select(axis, torch.arange(low, high, step, device=x.device))
    return (x.movedim(-1, 1) if channels_last else x,)


def tie_gather(op: Op, ties: Ties) -> None:
    x, index, y = op.inputs[0], op.inputs[1], op.outputs[0]
    rank, width = len(ties.shape(x)), len(ties.shape(index))
    axis = op.integer("axis", 0) % rank
    for other in range(rank):
        if other != axis:
            ties.tie((x, other), (y, other if other < axis else other + width - 1))
    if axis < rank - 1 and ties.seen.dtypes[y].kind == "f":
        ties.produce(op, x, rank - 1)
    if index not in ties.graph.static or index not in ties.seen.small:
        return
    if width == 0:
        here = ties.points((x, axis))[int(ties.seen.small[index])]
        ties.pins.append(Pin(here[None], "axis_mixed", f"{op.label()} takes this one out of its axis"))
        ties.speak((x, axis))
    elif width == 1:
        shown = ties.seen.small[index].astype(np.int64) % ties.size((x, axis))
        ties.tie_points(ties.points((x, axis))[shown], ties.points((y, axis)))
        ties.speak((x, axis), (y, axis), (index, 0))


def follow_gather(op: Op, ties: Ties, after: Cut) -> Follow:
    """The indices that stay, counted among what stays. The index tensor is not cut itself: others may read it."""
    x, index, y = op.inputs[0], op.inputs[1], op.outputs[0]
    axis = op.integer("axis", 0) % len(ties.shape(x))
    if len(ties.shape(index)) > 1 or after(x)[axis] == ties.shape(x)[axis]:
        return Follow()
    shown = ties.seen.small[index].astype(np.int64) % ties.size((x, axis))
    if not shown.ndim:
        return Follow(constants={1: np.array(after.before((x, axis), int(shown)), ties.seen.small[index].dtype)})
    shown = np.delete(shown, after.gone.get((y, axis), np.empty(0, np.int64)))
    left = np.array([after.before((x, axis), int(one)) for one in shown], ties.seen.small[index].dtype)
    return Follow(constants={1: left})


def gather(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, index = given(tensors, 0), given(tensors, 1)
    axis = op.integer("axis", 0) % x.ndim
    flat = index.reshape(-1).long()
    found = x.index_select(axis, torch.where(flat < 0, flat + x.shape[axis], flat))
    return (found.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])),)


def _pads(op: Op, ties: Ties) -> dict[int, tuple[int, int]] | None:
    """(before, behind) of each axis; None where they are computed."""
    rank = len(ties.shape(op.inputs[0]))
    pads = _known(op, ties, 1, "pads")
    axes = _known(op, ties, 3, "axes") if op.input(3) else list(range(rank))
    if pads is None or axes is None:
        return None
    half = len(pads) // 2
    found = dict.fromkeys(range(rank), (0, 0))
    return found | {axis % rank: (pads[place], pads[half + place]) for place, axis in enumerate(axes)}


def tie_pad(op: Op, ties: Ties) -> None:
    x, y = op.inputs[0], op.outputs[0]
    pads = _pads(op, ties)
    if pads is None:
        return
    for axis, (before, behind) in pads.items():
        if before == behind == 0:
            ties.tie((x, axis), (y, axis))
        elif min(before, behind) >= 0 and op.text("mode", "constant") == "constant":
            ties.tie_points(ties.points((x, axis)), ties.points((y, axis))[before : before + ties.size((x, axis))])
            ties.speak((x, axis), (y, axis))


def follow_pad(op: Op, ties: Ties, after: Cut) -> Follow:
    x, y = op.inputs[0], op.outputs[0]
    pads = _pads(op, ties)
    if pads is None or all(after(y)[axis] == ties.shape(y)[axis] for axis, pair in pads.items() if any(pair)):
        return Follow()
    for axis, (before, behind) in pads.items():
        if any((before, behind)):
            left = after.before((y, axis), before)
            pads[axis] = left, after(y)[axis] - after(x)[axis] - left
    listed = _known(op, ties, 3, "axes") if op.input(3) else list(pads)
    pairs = [pads[axis % len(pads)] for axis in listed or ()]
    flat = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
    return Follow(attrs={"pads": tuple(flat)}) if "pads" in op.attrs else Follow(constants={1: np.array(flat)})


def pad(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, listed, axes = given(tensors, 0), optional(tensors, 1), optional(tensors, 3)
    pads = list(op.ints("pads")) if listed is None else [int(one) for one in listed]
    places = range(x.ndim) if axes is None else [int(one) % x.ndim for one in axes]
    by_axis = dict(zip(places, zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True), strict=True))
    if op.text("mode", "constant") != "constant" or not (x.is_floating_point() or x.dtype == torch.int64):
        raise NoTorchForm
    value = optional(tensors, 2)
    fill = op.number("value", 0.0) if value is None or value.numel() == 0 else value.item()
    flat = [one for axis in reversed(range(x.ndim)) for one in by_axis.get(axis, (0, 0))]
    return (F.pad(x, flat, value=fill),)


RULES = {
    "Split": Rule(tie=tie_split, compute=split, follow=follow_split, passes=True),
    "Slice": Rule(tie=tie_slice, compute=slice_, follow=follow_slice, passes=True),
    "Gather": Rule(tie=tie_gather, compute=gather, follow=follow_gather, passes=True),
    "Pad": Rule(tie=tie_pad, compute=pad, follow=follow_pad),
}
