"""Batch normalisation at inference: each channel has its own statistics, so channels go one by one."""

import torch
import torch.nn.functional as F

from worker.engine.graph import Op
from worker.engine.ops.rule import NoTorchForm, Rule, Tensors, given
from worker.engine.ties import Ties


def tie(op: Op, ties: Ties) -> None:
    x, y = op.inputs[0], op.outputs[0]
    rank = len(ties.shape(x))
    if rank < 2 or op.integer("training_mode", 0) or op.integer("spatial", 1) == 0:
        return  # silence pins
    for axis in range(rank):
        ties.tie((x, axis), (y, axis))
    for name in op.inputs[1:5]:
        ties.tie((name, 0), (y, 1))


def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    if op.integer("training_mode", 0) or op.integer("spatial", 1) == 0 or len(op.outputs) > 1:
        raise NoTorchForm
    x, scale, bias, mean, var = (given(tensors, slot) for slot in range(5))
    return (F.batch_norm(x, mean, var, scale, bias, training=False, eps=op.number("epsilon", 1e-5)),)


RULES = {"BatchNormalization": Rule(tie=tie, compute=compute)}
