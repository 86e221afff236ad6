"""Pools and spatial means: samples and channels pass, spatial axes are mixed and stay."""

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


RULES = {
    "MaxPool": Rule(tie=tie, compute=max_pool, passes=True),
    "AveragePool": Rule(tie=tie, compute=average_pool, passes=True),
    "GlobalAveragePool": Rule(tie=tie, compute=global_average, passes=True),
    "GlobalMaxPool": Rule(tie=tie, compute=global_max, passes=True),
}
