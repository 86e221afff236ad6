"""Pools and spatial means: samples and channels pass, spatial axes are mixed and stay."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from worker.engine.graph import Op
from worker.engine.ops.convolution import flat_pads, pads_of
from worker.engine.ops.rule import NoTorchForm, Rule, Tensors, given
from worker.engine.ties import Ties

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def tie(op: Op, ties: Ties) -> None:
    for output in op.outputs:
        if output:
            ties.tie((op.inputs[0], 0), (output, 0))
            ties.tie((op.inputs[0], 1), (output, 1))


def max_pool(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, kernel = given(tensors, 0), op.ints("kernel_shape")
    rank = len(kernel)
    if len(op.outputs) > 1 or rank not in MAX or op.integer("ceil_mode", 0) or not x.is_floating_point():
        raise NoTorchForm
    pairs = pads_of(op, tuple(x.shape[2:]), kernel)
    x = F.pad(x, flat_pads(pairs), value=-torch.inf) if any(map(any, pairs)) else x
    y: torch.Tensor = MAX[rank](
        x, kernel, stride=op.ints("strides", (1,) * rank), dilation=op.ints("dilations", (1,) * rank)
    )
    return (y,)


def average_pool(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, kernel = given(tensors, 0), op.ints("kernel_shape")
    rank = len(kernel)
    plain = op.integer("ceil_mode", 0) == 0 and all(one == 1 for one in op.ints("dilations", (1,) * rank))
    if rank not in AVERAGE or not plain or not x.is_floating_point():
        raise NoTorchForm
    pairs = pads_of(op, tuple(x.shape[2:]), kernel)
    strides = op.ints("strides", (1,) * rank)
    padded = F.pad(x, flat_pads(pairs))
    y: torch.Tensor = AVERAGE[rank](padded, kernel, strides)
    if any(map(any, pairs)) and not op.integer("count_include_pad", 0):
        inside = F.pad(torch.ones_like(x[:1, :1]), flat_pads(pairs))
        y = y / AVERAGE[rank](inside, kernel, strides)
    return (y,)


def global_average(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    return (x.mean(dim=tuple(range(2, x.ndim)), keepdim=True),)


def global_max(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    return (x.amax(dim=tuple(range(2, x.ndim)), keepdim=True),)


def _mean_axes(op: Op, rank: int, axes: Sequence[int] | None) -> tuple[int, ...] | None:
    """Which axes are averaged; None where nothing is."""
    if axes is None or len(axes) == 0:
        return None if op.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(axis % rank for axis in axes))


def tie_mean(op: Op, ties: Ties) -> None:
    """The axes that are not averaged pass; a mean over a pruned axis would change its value."""
    x, y = op.inputs[0], op.outputs[0]
    rank = len(ties.shape(x))
    given_axes: Sequence[int] | None = op.ints("axes") or None
    if op.input(1):
        if op.inputs[1] not in ties.graph.static:
            return
        given_axes = [int(one) for one in ties.seen.small[op.inputs[1]]]
    axes = _mean_axes(op, rank, given_axes)
    kept = [axis for axis in range(rank) if axes is None or axis not in axes]
    keepdims = op.integer("keepdims", 1) or axes is None
    for position, axis in enumerate(kept):
        ties.tie((x, axis), (y, axis if keepdims else position))


def mean(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    wanted = tensors[1] if len(tensors) > 1 else None
    axes = _mean_axes(op, x.ndim, op.ints("axes") if wanted is None else wanted.tolist())
    if not x.is_floating_point():
        raise NoTorchForm
    return (x if axes is None else x.mean(dim=axes, keepdim=bool(op.integer("keepdims", 1))),)


RULES = {
    "MaxPool": Rule(tie=tie, compute=max_pool, passes=True),
    "AveragePool": Rule(tie=tie, compute=average_pool, passes=True),
    "GlobalAveragePool": Rule(tie=tie, compute=global_average, passes=True),
    "GlobalMaxPool": Rule(tie=tie, compute=global_max, passes=True),
    "ReduceMean": Rule(tie=tie_mean, compute=mean, passes=True),
}
