"""Convolution: dense, grouped and depthwise, in one to three dimensions.

Output channels are units that the weight's axis 0 makes; input channels are contracted with axis 1. In a grouped
convolution the same relative index is tied across the groups, so that they stay equal. A depthwise one passes
channels on.
"""

from math import prod

import numpy as np
import torch
import torch.nn.functional as F

from worker.engine.graph import Op
from worker.engine.ops.linear import Linear, Shapes, Spots, channels_spread
from worker.engine.ops.rule import Follow, NoTorchForm, Rule, ShapeOf, Tensors, given, optional
from worker.engine.ties import Ties

IMAGES = 4  # dimensions; with channels last ResNet-56 takes three quarters of the time, and what follows keeps it
SPATIAL = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def is_depthwise(op: Op, x_shape: tuple[int, ...]) -> bool:
    """One group for each input channel. A convolution of one channel in one group is an ordinary one."""
    groups = op.integer("group", 1)
    return groups > 1 and groups == x_shape[1]


def tie(op: Op, ties: Ties) -> None:
    tie_slots(op, ties, weight=1, bias=2)


def tie_slots(op: Op, ties: Ties, weight: int, bias: int | None) -> None:
    """With the weight and the bias at those input slots."""
    x, w, y = op.inputs[0], op.inputs[weight], op.outputs[0]
    groups = op.integer("group", 1)
    ties.tie((x, 0), (y, 0))
    if is_depthwise(op, ties.shape(x)):
        _tie_depthwise(ties, x, w, y)
        ties.produce(op, w, 0, carried=True)
    else:
        out = ties.points((w, 0)).reshape(groups, -1)
        ties.tie_points(out, ties.points((y, 1)).reshape(groups, -1))
        ties.tie_points(out, out[:1].repeat(groups, axis=0))
        inner = ties.points((w, 1))
        ties.tie_points(ties.points((x, 1)).reshape(groups, -1), inner[None].repeat(groups, axis=0))
        ties.speak((x, 1), (w, 0), (w, 1), (y, 1))
        ties.produce(op, w, 0)
        ties.consume(op, 0, 1, w, 1)
    if bias is not None and op.input(bias):
        ties.tie((op.inputs[bias], 0), (y, 1))


def _tie_depthwise(ties: Ties, x: str, w: str, y: str) -> None:
    """Channel c feeds the outputs c * m .. c * m + m - 1 alone."""
    channels = ties.points((x, 1))
    out = ties.points((y, 1)).reshape(len(channels), -1)
    ties.tie_points(out, channels[:, None].repeat(out.shape[1], axis=1))
    ties.tie_points(out.ravel(), ties.points((w, 0)))
    ties.speak((x, 1), (w, 0), (y, 1))


def follow(op: Op, ties: Ties, after: ShapeOf) -> Follow:
    x = op.inputs[0]
    if is_depthwise(op, ties.shape(x)) and after(x)[1] != ties.shape(x)[1]:
        return Follow(attrs={"group": after(x)[1]})
    return Follow()


def macs(op: Op, shape: ShapeOf) -> int:
    return prod(shape(op.outputs[0])) * prod(shape(op.inputs[1])[1:])


def pads_of(op: Op, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> list[tuple[int, int]]:
    """(begin, end) padding of each spatial dimension, `auto_pad` resolved."""
    rank = len(kernel)
    mode = op.text("auto_pad", "NOTSET")
    strides = op.ints("strides", (1,) * rank)
    dilations = op.ints("dilations", (1,) * rank)
    if mode == "VALID":
        return [(0, 0)] * rank
    if mode == "NOTSET":
        pads = op.ints("pads", (0,) * (2 * rank))
        return list(zip(pads[:rank], pads[rank:], strict=True))
    pairs = []
    for size, k, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        need = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small, large = need // 2, need - need // 2
        pairs.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return pairs


def flat_pads(pairs: list[tuple[int, int]]) -> list[int]:
    """Padding in the order of torch.nn.functional.pad: the last dimension first."""
    return [one for pair in reversed(pairs) for one in pair]


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    try:
        return x.contiguous(memory_format=torch.channels_last)
    except RuntimeError:  # inside a transform of torch.func tensors have no layout of their own
        return x


def is_channels_last(x: torch.Tensor) -> bool:
    """Images whose channels lie side by side, as convolutions leave them."""
    try:
        return x.ndim == IMAGES and x.stride(1) < x.stride(3)
    except RuntimeError:
        return False


def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, w = given(tensors, 0), given(tensors, 1)
    rank = w.ndim - 2
    if rank not in SPATIAL:
        raise NoTorchForm
    pairs = pads_of(op, tuple(x.shape[2:]), tuple(w.shape[2:]))
    if all(begin == end for begin, end in pairs):
        padding = [begin for begin, _ in pairs]
    else:
        x, padding = F.pad(x, flat_pads(pairs)), [0] * rank
    y = SPATIAL[rank](
        _channels_last(x) if x.ndim == IMAGES else x,
        w,
        optional(tensors, 2),
        stride=op.ints("strides", (1,) * rank),
        padding=padding,
        dilation=op.ints("dilations", (1,) * rank),
        groups=op.integer("group", 1),
    )
    return (y,)


def rows_at(
    padded: torch.Tensor,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    blocks: int,
    spots: Spots,
) -> torch.Tensor:
    """What a kernel sees at some of the places that it visits: (blocks, samples * places, channels of a block * taps).
    Picked pixel by pixel, for convolutions leave the channels of a pixel side by side."""
    count, channels = padded.shape[:2]
    axes = [*zip(padded.shape[2:], kernel, strides, dilations, strict=True)]
    ends = [(size - (k - 1) * dilation - 1) // stride + 1 for size, k, stride, dilation in axes]
    at = torch.arange(prod(ends)) if spots is None else spots.cpu()
    corners, taps, step = torch.zeros_like(at), torch.zeros_like(at[:1]), 1
    for (size, k, stride, dilation), end in reversed([*zip(axes, ends, strict=True)]):
        corners += at % end * stride * step
        taps = (torch.arange(k)[:, None] * dilation * step + taps).ravel()
        at, step = at // end, step * size
    pixels = (corners[:, None] + taps).ravel().to(padded.device)
    picked = padded.movedim(1, -1).reshape(count, -1, channels).index_select(1, pixels)
    apart = picked.reshape(count, len(corners), len(taps), blocks, channels // blocks)
    return apart.permute(3, 0, 1, 4, 2).reshape(blocks, count * len(corners), -1)


def linear(op: Op, shapes: Shapes, constant: int) -> Linear | None:
    """A row is one place of one sample; its features are the channels times the taps that the place sees."""
    w = shapes[op.inputs[1]]
    rank, groups = len(w) - 2, op.integer("group", 1)
    if rank not in SPATIAL or constant != 1:
        return None
    kernel, ones = w[2:], (1,) * rank
    strides, dilations = op.ints("strides", ones), op.ints("dilations", ones)

    def gather(x: torch.Tensor, spots: Spots) -> torch.Tensor:
        padded = F.pad(x, flat_pads(pads_of(op, tuple(x.shape[2:]), kernel)))
        return rows_at(padded, kernel, strides, dilations, groups, spots)

    def places(x: tuple[int, ...]) -> tuple[int, int]:
        pads = pads_of(op, x[2:], kernel)
        spans = ((k - 1) * dilation + 1 for k, dilation in zip(kernel, dilations, strict=True))
        sizes = zip(x[2:], pads, spans, strides, strict=True)
        return prod((size + sum(pad) - span) // stride + 1 for size, pad, span, stride in sizes), x[0]

    spread = channels_spread(len(w), w[0])
    return Linear(
        weight=op.inputs[1],
        bias=op.input(2),
        blocks=groups,
        features=prod(w[1:]),
        outputs=w[0] // groups,
        taps=prod(kernel),
        spread=spread,
        bias_shape=spread,
        owned={1: np.arange(prod(w[1:])).reshape(w[1], -1)},
        places=places,
        gather=gather,
        results=lambda y, spots: rows_at(y, ones, ones, ones, groups, spots),
        matrix=lambda array: array.reshape(groups, w[0] // groups, -1).transpose(1, 2),
        array=lambda matrix: matrix.transpose(1, 2).reshape(w),
    )


RULES = {"Conv": Rule(tie=tie, compute=compute, macs=macs, follow=follow, linear=linear)}
