"""Normalisations at inference.

BatchNormalization and InstanceNormalization have statistics for each channel: channels go one by one. In
GroupNormalization whole groups of channels go. LayerNormalization, RMSNormalization and a GroupNormalization of one
group take statistics over the axis itself: removing a part changes the rest, so those axes pass only where the caller
asked for `lossy`. In LRN a channel looks at its neighbours, and stays.
"""

from math import prod

import torch
import torch.nn.functional as F

from worker.engine.graph import Array, Op
from worker.engine.ops.elementwise import tie_broadcast
from worker.engine.ops.rule import Follow, NoTorchForm, Rule, ShapeOf, Tensors, given, optional
from worker.engine.primitives import Primitives, Value
from worker.engine.ties import Ties


def _normalises(op: Op, ties: Ties, axis: int) -> None:
    ties.statistic(op, axis, "normalised", "normalises")


def _standardise(op: Op, build: Primitives, axes: tuple[int, ...], mask: Array) -> tuple[Value, Value, Value]:
    """Mean zero and variance one over the units that stay, without scale; the mean and the inverse deviation."""
    x = build.wide(build.input(0))
    mean = build.mean(x, axes, mask)
    centred = build("Sub", x, mean)
    inverse = _inverse(op, build, centred, axes, mask)
    return build.narrow(build("Mul", centred, inverse)), mean, inverse


def _inverse(op: Op, build: Primitives, x: Value, axes: tuple[int, ...], mask: Array) -> Value:
    """One over the root of the mean square."""
    square = build.mean(build("Mul", x, x), axes, mask)
    return build("Reciprocal", build("Sqrt", build("Add", square, build.constant(op.number("epsilon", 1e-5)))))


def _scaled(build: Primitives, y: Value, slots: tuple[int, ...], rank: int = 0) -> Value:
    """Times the scale, plus the bias where there is one; with `rank`, one for each channel of so many dimensions."""
    for operator, slot in zip(("Mul", "Add"), slots, strict=False):
        one = build.optional(slot)
        if one is not None:
            y = build(operator, y, build.reshape(one, (1, -1, *(1,) * (rank - 2))) if rank else one)
    return y


def tie_batch(op: Op, ties: Ties) -> None:
    x, y = op.inputs[0], op.outputs[0]
    rank = len(ties.shape(x))
    if rank < 2 or op.integer("training_mode", 0) or op.integer("spatial", 1) == 0:
        return  # silence pins
    for axis in range(rank):
        ties.tie((x, axis), (y, axis))
    for name in op.inputs[1:5]:
        ties.tie((name, 0), (y, 1))


def batch(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    if op.integer("training_mode", 0) or op.integer("spatial", 1) == 0 or len(op.outputs) > 1:
        raise NoTorchForm
    x, scale, bias, mean, var = (given(tensors, slot) for slot in range(5))
    if x.ndim < 2:
        raise NoTorchForm  # one channel: the only axis is the batch
    return (F.batch_norm(x, mean, var, scale, bias, training=False, eps=op.number("epsilon", 1e-5)),)


def tie_instance(op: Op, ties: Ties) -> None:
    x, scale, bias = op.inputs[:3]
    y = op.outputs[0]
    ties.tie((x, 0), (y, 0))
    for one in ((x, 1), (scale, 0), (bias, 0)):
        ties.tie(one, (y, 1))
    for axis in range(2, len(ties.shape(x))):  # channels may lie there, behind a Reshape
        ties.tie((x, axis), (y, axis))
        _normalises(op, ties, axis)


def instance_over_kept(op: Op, build: Primitives, mask: Array) -> tuple[Value, ...]:
    y, _, _ = _standardise(op, build, tuple(range(2, mask.ndim)), mask)
    return (_scaled(build, y, (1, 2), mask.ndim),)


def _per_channel(values: torch.Tensor, rank: int) -> torch.Tensor:
    return values.reshape(1, -1, *(1,) * (rank - 2))


def instance(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, scale, bias = (given(tensors, slot) for slot in range(3))
    axes = tuple(range(2, x.ndim))
    var, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
    y = (x - mean) * torch.rsqrt(var + op.number("epsilon", 1e-5))
    return (y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim),)


def tie_group(op: Op, ties: Ties) -> None:
    """A unit is a whole group of channels. Scales come for each channel, or one for each group (opset 18)."""
    x, y = op.inputs[0], op.outputs[0]
    groups = op.integer("num_groups", 1)
    ties.tie((x, 0), (y, 0))
    if groups == 1:
        per_channel = [name for name in op.inputs[1:3] if ties.shape(name) == ties.shape(x)[1:2]]
        for axis in ((x, 1), *((name, 0) for name in per_channel)):
            ties.tie(axis, (y, 1))
        _normalises(op, ties, 1)
        return
    carrier = ties.points((x, 1)).reshape(groups, -1)[:, :1]
    for axis in ((x, 1), (y, 1), (op.inputs[1], 0), (op.inputs[2], 0)):
        own = ties.points(axis).reshape(groups, -1)
        ties.tie_points(own, carrier.repeat(own.shape[1], axis=1))
        ties.speak(axis)


def follow_group(op: Op, ties: Ties, after: ShapeOf) -> Follow:
    x, groups = op.inputs[0], op.integer("num_groups", 1)
    if groups == 1:
        return Follow()
    kept = after(x)[1] * groups // ties.shape(x)[1]
    return Follow(attrs={"num_groups": kept}) if kept != groups else Follow()


def group_over_kept(op: Op, build: Primitives, mask: Array) -> tuple[Value, ...]:
    """One group alone: where there are several, whole groups go."""
    y, _, _ = _standardise(op, build, tuple(range(1, mask.ndim)), mask)
    return (_scaled(build, y, (1, 2), mask.ndim),)


def group(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, scale, bias = (given(tensors, slot) for slot in range(3))
    groups, channels = op.integer("num_groups", 1), x.shape[1]
    y = F.group_norm(x, groups, eps=op.number("epsilon", 1e-5))
    scale, bias = (one.repeat_interleave(channels // one.numel()) for one in (scale, bias))
    return (y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim),)


def tie_layer(op: Op, ties: Ties) -> None:
    """From `axis` on everything is normalised together. Statistics, where asked for, keep those axes at size one."""
    x = op.inputs[0]
    first = op.integer("axis", -1) % len(ties.shape(x))
    for output in filter(None, op.outputs[1:]):
        for axis in range(first):
            ties.tie((x, axis), (output, axis))
    tie_broadcast(ties, filter(None, op.inputs), op.outputs[0])
    for axis in range(first, len(ties.shape(x))):
        _normalises(op, ties, axis)


def layer_over_kept(op: Op, build: Primitives, mask: Array) -> tuple[Value, ...]:
    axes = tuple(range(op.integer("axis", -1) % mask.ndim, mask.ndim))
    y, mean, inverse = _standardise(op, build, axes, mask)
    return _scaled(build, y, (1, 2)), mean, inverse


def rms_over_kept(op: Op, build: Primitives, mask: Array) -> tuple[Value, ...]:
    axes = tuple(range(op.integer("axis", -1) % mask.ndim, mask.ndim))
    x = build.wide(build.input(0))
    y = build.narrow(build("Mul", x, _inverse(op, build, x, axes, mask)))
    return (_scaled(build, y, (1,)),)


def layer(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, scale, bias = given(tensors, 0), given(tensors, 1), optional(tensors, 2)
    axes = tuple(range(op.integer("axis", -1) % x.ndim, x.ndim))
    var, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
    inverse = torch.rsqrt(var + op.number("epsilon", 1e-5))
    y = (x - mean) * inverse * scale
    return (y if bias is None else y + bias, mean, inverse)


def rms(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, scale = given(tensors, 0), given(tensors, 1)
    axes = tuple(range(op.integer("axis", -1) % x.ndim, x.ndim))
    inverse = torch.rsqrt(x.square().mean(dim=axes, keepdim=True) + op.number("epsilon", 1e-5))
    return (x * inverse * scale, inverse)


def tie_local_response(op: Op, ties: Ties) -> None:
    """Each channel is divided by what its neighbours do."""
    x, y = op.inputs[0], op.outputs[0]
    for axis in range(len(ties.shape(x))):
        ties.tie((x, axis), (y, axis))
    ties.pin((x, 1), "normalised", f"{op.label()} normalises over it: removing a part changes the rest")


def local_response(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    """y_c = x_c / (bias + alpha / size * the sum of squares of the `size` channels around c) ^ beta."""
    x, size = given(tensors, 0), op.integer("size", 1)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    flat = x.square().reshape(x.shape[0], 1, x.shape[1], prod(x.shape[2:]))
    near = F.avg_pool2d(F.pad(flat, (0, 0, before, after)), (size, 1), 1).reshape(x.shape)
    return (x / (op.number("bias", 1.0) + op.number("alpha", 1e-4) * near) ** op.number("beta", 0.75),)


RULES = {
    "BatchNormalization": Rule(tie=tie_batch, compute=batch, in_place=True),
    "InstanceNormalization": Rule(tie=tie_instance, compute=instance, over_kept=instance_over_kept),
    "GroupNormalization": Rule(tie=tie_group, compute=group, follow=follow_group, over_kept=group_over_kept),
    "LayerNormalization": Rule(tie=tie_layer, compute=layer, over_kept=layer_over_kept),
    "RMSNormalization": Rule(tie=tie_layer, compute=rms, over_kept=rms_over_kept),
    "LRN": Rule(tie=tie_local_response, compute=local_response),
}
