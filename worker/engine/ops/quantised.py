"""Quantised values: whole numbers that stand for real ones, with a scale and the number that stands for zero.

One scale for a whole tensor passes every axis; a scale for each index of an axis is cut with it. Weights behind
DequantizeLinear are cut where they are stored, those of products and convolutions of integers where these read them:
there a removed unit reads as what stands for zero. DynamicQuantizeLinear widens its range to hold zero: a unit that
reads as zero there changes neither scale nor zero.
"""

from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F

from worker.engine.graph import Op
from worker.engine.ops import convolution
from worker.engine.ops.convolution import flat_pads, pads_of
from worker.engine.ops.products import tie_matmul
from worker.engine.ops.rule import NoTorchForm, Rule, ShapeOf, Tensors, given, optional
from worker.engine.ties import Axis, Ties

SPATIAL = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
BOUNDS = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int16: (-32768, 32767)}


def tie(op: Op, ties: Ties) -> None:
    x, y = op.inputs[0], op.outputs[0]
    rank = len(ties.shape(y))
    if op.integer("block_size", 0):
        return  # silence pins: a block would straddle what stays and what goes
    for axis in range(rank):
        ties.tie((x, axis), (y, axis))
    for name in filter(None, op.inputs[1:]):
        if len(ties.shape(name)) == 1 and ties.shape(name)[0] > 1:
            ties.tie((name, 0), (y, op.integer("axis", 1) % rank))


def tie_dynamic(op: Op, ties: Ties) -> None:
    """What reads as zero changes neither the smallest nor the largest value: zero is in the range anyway."""
    x, y = op.inputs[0], op.outputs[0]
    for axis in range(len(ties.shape(x))):
        ties.tie((x, axis), (y, axis))
        ties.consume(op, 0, axis)


def tie_scales(op: Op, ties: Ties, slots: tuple[int, ...], axis: Axis) -> None:
    """Scales and zeros at those slots, where there is one for each index of an axis."""
    for name in filter(None, map(op.input, slots)):
        if ties.shape(name) == (ties.size(axis),) != (1,):
            ties.tie((name, 0), axis)


def single(op: Op, ties: Ties, *slots: int) -> bool:
    """Whether there is one number for the whole tensor at each of those slots."""
    return all(prod(ties.shape(name)) == 1 for name in filter(None, map(op.input, slots)))


def tie_qlinear_conv(op: Op, ties: Ties) -> None:
    convolution.tie_slots(op, ties, weight=3, bias=8)
    tie_scales(op, ties, (4, 5), (op.outputs[0], 1))


def tie_conv_integer(op: Op, ties: Ties) -> None:
    convolution.tie_slots(op, ties, weight=1, bias=None)
    tie_scales(op, ties, (3,), (op.outputs[0], 1))


def tie_qlinear_matmul(op: Op, ties: Ties) -> None:
    if single(op, ties, 1, 2, 6, 7):  # rows with scales of their own: silence pins
        tie_matmul(op, ties, (0, 3))
        tie_scales(op, ties, (4, 5), (op.outputs[0], len(ties.shape(op.outputs[0])) - 1))


def tie_matmul_integer(op: Op, ties: Ties) -> None:
    if single(op, ties, 2):
        tie_matmul(op, ties, (0, 1))
        tie_scales(op, ties, (3,), (op.outputs[0], len(ties.shape(op.outputs[0])) - 1))


def _spread(op: Op, values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A scale or zero point in a shape that broadcasts: one for all, for each index of an axis, or for each block."""
    axis = op.integer("axis", 1)
    if block := op.integer("block_size", 0):
        return values.repeat_interleave(block, dim=axis).narrow(axis, 0, like.shape[axis])
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * like.ndim
    shape[axis] = -1
    return values.reshape(shape)


def _quantise(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Round half to even, then move by the zero point and saturate."""
    if zero.dtype not in BOUNDS:
        raise NoTorchForm
    return (torch.round(x / scale) + zero).clamp(*BOUNDS[zero.dtype]).to(zero.dtype)


def quantize(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, scale, zero = given(tensors, 0), given(tensors, 1), optional(tensors, 2)
    if {"output_dtype", "precision"} & op.attrs.keys() or not x.is_floating_point():
        raise NoTorchForm
    if zero is None:
        zero = torch.zeros_like(scale, dtype=torch.uint8)
    return (_quantise(x, _spread(op, scale, x), _spread(op, zero, x)),)


def dequantize(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, scale, zero = given(tensors, 0), given(tensors, 1), optional(tensors, 2)
    if "output_dtype" in op.attrs:
        raise NoTorchForm
    moved = x.to(torch.int64)
    if zero is not None:
        moved = moved - _spread(op, zero, x)
    return (moved.to(scale.dtype) * _spread(op, scale, x),)


def dynamic_quantize(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    """The range of the data, widened to hold zero, over 255 steps."""
    x = given(tensors, 0)
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.where(scale > 0, torch.round(-low / scale), 0).clamp(0, 255).to(torch.uint8)
    return _quantise(x, torch.where(scale > 0, scale, 1), zero), scale, zero


def _along(values: torch.Tensor | None, like: torch.Tensor, axis: int) -> torch.Tensor:
    """A zero point or scale, one or one for each index of an axis, as float64: its products with integers are exact."""
    if values is None:
        return like.new_zeros((), dtype=torch.float64)
    if values.ndim > 1:
        return values.to(torch.float64)
    shape = [1] * like.ndim
    if values.numel() > 1:
        shape[axis] = -1
    return values.to(torch.float64).reshape(shape)


def _product(
    a: torch.Tensor, a_zero: torch.Tensor | None, b: torch.Tensor, b_zero: torch.Tensor | None
) -> torch.Tensor:
    left = a.to(torch.float64) - _along(a_zero, a, -2)
    return left @ (b.to(torch.float64) - _along(b_zero, b, -1))


def matmul_integer(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    a, b = given(tensors, 0), given(tensors, 1)
    return (_product(a, optional(tensors, 2), b, optional(tensors, 3)).to(torch.int32),)


def qlinear_matmul(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (given(tensors, slot) for slot in range(8))
    real = _product(a, a_zero, b, b_zero) * _along(a_scale, a, -2) * _along(b_scale, b, -1)
    return (_quantise(real, y_scale.to(torch.float64), y_zero),)


def _convolve(
    op: Op, x: torch.Tensor, x_zero: torch.Tensor | None, w: torch.Tensor, w_zero: torch.Tensor | None
) -> torch.Tensor:
    rank = w.ndim - 2
    if rank not in SPATIAL:
        raise NoTorchForm
    x = x.to(torch.float64) - _along(x_zero, x, 0)
    x = F.pad(x, flat_pads(pads_of(op, tuple(x.shape[2:]), tuple(w.shape[2:]))))
    y: torch.Tensor = SPATIAL[rank](
        x,
        w.to(torch.float64) - _along(w_zero, w, 0),
        stride=op.ints("strides", (1,) * rank),
        dilation=op.ints("dilations", (1,) * rank),
        groups=op.integer("group", 1),
    )
    return y


def conv_integer(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, w = given(tensors, 0), given(tensors, 1)
    return (_convolve(op, x, optional(tensors, 2), w, optional(tensors, 3)).to(torch.int32),)


def qlinear_conv(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (given(tensors, slot) for slot in range(8))
    real, bias = _convolve(op, x, x_zero, w, w_zero), optional(tensors, 8)
    if bias is not None:
        real = real + _along(bias, real, 1)
    real = real * x_scale.to(torch.float64) * _along(w_scale, real, 1)
    return (_quantise(real, y_scale.to(torch.float64), y_zero),)


def macs_at(slot: int) -> Callable[[Op, ShapeOf], int]:
    """Multiply-accumulates of a convolution whose weight is at that slot."""

    def macs(op: Op, shape: ShapeOf) -> int:
        made, per_output = shape(op.outputs[0]), shape(op.inputs[slot])[1:]
        return int(torch.Size(made).numel() * torch.Size(per_output).numel())

    return macs


def macs_matmul(op: Op, shape: ShapeOf) -> int:
    return int(torch.Size(shape(op.outputs[0])).numel() * shape(op.inputs[0])[-1])


RULES = {
    "QuantizeLinear": Rule(tie=tie, compute=quantize, passes=True),
    "DequantizeLinear": Rule(tie=tie, compute=dequantize, passes=True),
    "DynamicQuantizeLinear": Rule(tie=tie_dynamic, compute=dynamic_quantize),
    "MatMulInteger": Rule(tie=tie_matmul_integer, compute=matmul_integer, macs=macs_matmul),
    "QLinearMatMul": Rule(tie=tie_qlinear_matmul, compute=qlinear_matmul, macs=macs_matmul),
    "ConvInteger": Rule(tie=tie_conv_integer, compute=conv_integer, macs=macs_at(1), follow=convolution.follow),
    "QLinearConv": Rule(tie=tie_qlinear_conv, compute=qlinear_conv, macs=macs_at(3), follow=convolution.follow),
}
