"""Transposed convolution, dense, grouped and depthwise, in one to three dimensions.

Its weight is (inputs, outputs of a group, ...): input channels are contracted with axis 0, axis 1 makes the units. In a
grouped one the same relative index is tied across the groups, so that they stay equal; a depthwise one passes channels
on.
"""

from math import prod

import numpy as np
import torch
import torch.nn.functional as F

from worker.engine.graph import Op
from worker.engine.ops.convolution import flat_pads, follow, is_depthwise, rows_at
from worker.engine.ops.linear import Linear, Shapes, Spots, channels_spread
from worker.engine.ops.rule import NoTorchForm, Rule, ShapeOf, Tensors, given, optional
from worker.engine.ties import Ties

SPATIAL = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def tie(op: Op, ties: Ties) -> None:
    x, w, y = op.inputs[0], op.inputs[1], op.outputs[0]
    groups = op.integer("group", 1)
    ties.tie((x, 0), (y, 0))
    if is_depthwise(op, ties.shape(x)):
        channels = ties.points((x, 1))
        out = ties.points((y, 1)).reshape(len(channels), -1)
        ties.tie_points(out, channels[:, None].repeat(out.shape[1], axis=1))
        ties.tie((x, 1), (w, 0))
        ties.speak((y, 1))
        ties.produce(op, w, 0, carried=True)
    else:
        inner = ties.points((x, 1)).reshape(groups, -1)
        ties.tie_points(inner, inner[:1].repeat(groups, axis=0))
        ties.tie_points(ties.points((w, 0)).reshape(groups, -1), inner)
        made = ties.points((w, 1))
        ties.tie_points(ties.points((y, 1)).reshape(groups, -1), made[None].repeat(groups, axis=0))
        ties.speak((x, 1), (w, 0), (w, 1), (y, 1))
        ties.produce(op, w, 1)
        ties.consume(op, 0, 1, w, 0)
    if op.input(2):
        ties.tie((op.inputs[2], 0), (y, 1))


def macs(op: Op, shape: ShapeOf) -> int:
    return prod(shape(op.inputs[0])) * prod(shape(op.inputs[1])[1:])


def _trims(op: Op, full: tuple[int, ...], spatial: tuple[int, ...], spare: tuple[int, ...]) -> list[tuple[int, int]]:
    """What is cut off at both ends of each dimension (a negative end adds); `full` is the size without `spare`, the
    output padding."""
    rank = len(full)
    mode = op.text("auto_pad", "NOTSET")
    sizes = op.ints("output_shape")[-rank:]
    if not sizes and mode == "VALID":
        return [(0, 0)] * rank
    if not sizes and mode == "NOTSET":
        pads = op.ints("pads", (0,) * (2 * rank))
        return list(zip(pads[:rank], pads[rank:], strict=True))
    if not sizes:
        sizes = tuple(size * stride for size, stride in zip(spatial, op.ints("strides", (1,) * rank), strict=True))
    trims = []
    for size, more, wanted in zip(full, spare, sizes, strict=True):
        total = size + more - wanted
        small, large = max(total, 0) // 2, total - max(total, 0) // 2
        trims.append((small, large) if mode == "SAME_UPPER" or total < 0 else (large, small))
    return trims


def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, w, bias = given(tensors, 0), given(tensors, 1), optional(tensors, 2)
    rank = w.ndim - 2
    strides, dilations = op.ints("strides", (1,) * rank), op.ints("dilations", (1,) * rank)
    spare = op.ints("output_padding", (0,) * rank)
    spatial, kernel = tuple(x.shape[2:]), tuple(w.shape[2:])
    if rank not in SPATIAL or len(op.ints("output_shape", (0,) * rank)) not in (rank, rank + 2):
        raise NoTorchForm
    full = _full(spatial, kernel, strides, dilations)
    trims = _trims(op, full, spatial, spare)
    groups = op.integer("group", 1)
    if all(begin == end for begin, end in trims) and all(
        more < max(stride, dilation) for more, stride, dilation in zip(spare, strides, dilations, strict=True)
    ):
        padding = [begin for begin, _ in trims]
        return (SPATIAL[rank](x, w, bias, strides, padding, spare, groups, dilations),)
    y = SPATIAL[rank](x, w, None, strides, 0, 0, groups, dilations)
    for axis, ((begin, end), size, more) in enumerate(zip(trims, full, spare, strict=True), start=2):
        y = F.pad(y, (0, 0) * (y.ndim - 1 - axis) + (0, max(more, more - end)))
        y = y.narrow(axis, begin, size + more - begin - end)
    if bias is not None:
        y = y + bias.reshape(-1, *(1,) * rank)
    return (y,)


def linear(op: Op, shapes: Shapes, constant: int) -> Linear | None:
    """A convolution of the input with zeros between its values, the kernel turned around."""
    w = shapes[op.inputs[1]]
    rank, groups = len(w) - 2, op.integer("group", 1)
    if rank not in SPATIAL or constant != 1:
        return None
    kernel, ones = w[2:], (1,) * rank
    strides, dilations = op.ints("strides", ones), op.ints("dilations", ones)
    spare = op.ints("output_padding", (0,) * rank)
    turned = tuple(range(2, 2 + rank))

    def gather(x: torch.Tensor, spots: Spots) -> torch.Tensor:
        spatial = tuple(x.shape[2:])
        full = _full(spatial, kernel, strides, dilations)
        trims = _trims(op, full, spatial, spare)
        sparse = x.new_zeros(
            *x.shape[:2], *((size - 1) * stride + 1 for size, stride in zip(spatial, strides, strict=True))
        )
        sparse[(slice(None), slice(None), *(slice(None, None, stride) for stride in strides))] = x
        pads = []
        for k, dilation, (begin, end), more in zip(kernel, dilations, trims, spare, strict=True):
            reach = (k - 1) * dilation
            pads.append((reach - begin, reach - end + more))
        return rows_at(F.pad(sparse, flat_pads(pads)), kernel, ones, dilations, groups, spots)

    def places(x: tuple[int, ...]) -> tuple[int, int]:
        full = _full(x[2:], kernel, strides, dilations)
        sizes = zip(full, _trims(op, full, x[2:], spare), spare, strict=True)
        return prod(size + more - sum(trim) for size, trim, more in sizes), x[0]

    def matrix(array: torch.Tensor) -> torch.Tensor:
        """(inputs, outputs of a group, *kernel) -> (groups, inputs of a group * taps, outputs of a group)."""
        flipped = array.flip(turned).reshape(groups, w[0] // groups, w[1], -1)
        return flipped.transpose(2, 3).reshape(groups, -1, w[1])

    def back(matrix: torch.Tensor) -> torch.Tensor:
        split = matrix.reshape(groups, w[0] // groups, prod(kernel), w[1]).transpose(2, 3)
        return split.reshape(w).flip(turned)

    spread = channels_spread(len(w), groups * w[1])
    return Linear(
        weight=op.inputs[1],
        bias=op.input(2),
        blocks=groups,
        features=w[0] // groups * prod(kernel),
        outputs=w[1],
        taps=prod(kernel),
        spread=spread,
        bias_shape=spread,
        owned={0: np.tile(np.arange(w[0] // groups * prod(kernel)).reshape(w[0] // groups, -1), (groups, 1))},
        places=places,
        gather=gather,
        results=lambda y, spots: rows_at(y, ones, ones, ones, groups, spots),
        matrix=matrix,
        array=back,
    )


def _full(
    spatial: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[int, ...]:
    """The size before anything is cut off, without output padding."""
    return tuple(
        stride * (size - 1) + (k - 1) * dilation + 1
        for size, k, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True)
    )


RULES = {"ConvTranspose": Rule(tie=tie, compute=compute, macs=macs, follow=follow, linear=linear)}
