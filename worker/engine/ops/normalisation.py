"""Normalisations at inference.

BatchNormalization and InstanceNormalization have statistics for each channel: channels go one by one. In
GroupNormalization whole groups of channels go. LayerNormalization, RMSNormalization and LRN take statistics over the
axis itself: removing a part changes the rest, so those axes are pinned and the others pass.
"""

from math import prod

import torch
import torch.nn.functional as F

from worker.engine.graph import Op
from worker.engine.ops.rule import Follow, NoTorchForm, Rule, ShapeOf, Tensors, given, optional
from worker.engine.ties import Ties


def _pin(op: Op, ties: Ties, name: str, axis: int) -> None:
    ties.pin((name, axis), "normalised", f"{op.label()} normalises over it: removing a part changes the rest")


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
    for axis in range(2, len(ties.shape(x))):
        _pin(op, ties, x, axis)
        _pin(op, ties, y, axis)


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
        _pin(op, ties, x, 1)
        _pin(op, ties, y, 1)
        return
    carrier = ties.points((x, 1)).reshape(groups, -1)[:, :1]
    for axis in ((x, 1), (y, 1), (op.inputs[1], 0), (op.inputs[2], 0)):
        own = ties.points(axis).reshape(groups, -1)
        ties.tie_points(own, carrier.repeat(own.shape[1], axis=1))
        ties.speak(axis)


def follow_group(op: Op, ties: Ties, after: ShapeOf) -> Follow:
    x, groups = op.inputs[0], op.integer("num_groups", 1)
    kept = after(x)[1] * groups // ties.shape(x)[1]
    return Follow(attrs={"num_groups": kept}) if kept != groups else Follow()


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
    for output in filter(None, op.outputs):
        for axis in range(first):
            ties.tie((x, axis), (output, axis))
    for name in filter(None, (*op.inputs, op.outputs[0])):
        rank = len(ties.shape(name))
        shift = len(ties.shape(x)) - rank
        for axis in range(max(first - shift, 0), rank):
            _pin(op, ties, name, axis)


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
    _pin(op, ties, x, 1)


def local_response(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    """y_c = x_c / (bias + alpha / size * the sum of squares of the `size` channels around c) ^ beta."""
    x, size = given(tensors, 0), op.integer("size", 1)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    flat = x.square().reshape(x.shape[0], 1, x.shape[1], prod(x.shape[2:]))
    near = F.avg_pool2d(F.pad(flat, (0, 0, before, after)), (size, 1), 1).reshape(x.shape)
    return (x / (op.number("bias", 1.0) + op.number("alpha", 1e-4) * near) ** op.number("beta", 0.75),)


RULES = {
    "BatchNormalization": Rule(tie=tie_batch, compute=batch, in_place=True),
    "InstanceNormalization": Rule(tie=tie_instance, compute=instance),
    "GroupNormalization": Rule(tie=tie_group, compute=group, follow=follow_group),
    "LayerNormalization": Rule(tie=tie_layer, compute=layer),
    "RMSNormalization": Rule(tie=tie_layer, compute=rms),
    "LRN": Rule(tie=tie_local_response, compute=local_response),
}
