"""Operators of onnxruntime's own domain: what its quantiser writes (sums, pools and products of quantised values) and
what its optimiser fuses (products with what follows them).

They pass units as the operators that they are named after do. Most have no torch form: onnxruntime computes them.
"""

from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F

from worker.engine.graph import Op
from worker.engine.ops import convolution, elementwise
from worker.engine.ops.elementwise import tie_broadcast
from worker.engine.ops.layout import tie_joined
from worker.engine.ops.products import macs_gemm, tie_gemm, tie_matmul
from worker.engine.ops.quantised import macs_matmul, single, tie_scales
from worker.engine.ops.rule import NoTorchForm, Rule, ShapeOf, Tensors, given, optional
from worker.engine.ties import Ties

DOMAIN = "com.microsoft"


def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    raise NoTorchForm


def tie_values(*slots: int) -> Callable[[Op, Ties], None]:
    """Elementwise over the values at those slots; the others are scales and zeros."""

    def tie(op: Op, ties: Ties) -> None:
        tie_broadcast(ties, [op.inputs[slot] for slot in slots], op.outputs[0])

    return tie


def tie_pool(op: Op, ties: Ties) -> None:
    x, y = op.inputs[0], op.outputs[0]
    ties.tie((x, 0), (y, 0))
    channels = len(ties.shape(x)) - 1 if op.integer("channels_last", 0) else 1
    ties.tie((x, channels), (y, channels))


def tie_concat(op: Op, ties: Ties) -> None:
    """A scale and a zero for the output, then three inputs for each part."""
    tie_joined(op, ties, op.inputs[2::3])


def tie_product(op: Op, ties: Ties) -> None:
    if single(op, ties, 1, 2, 7, 8):
        tie_gemm(op, ties, (0, 3), bias=6)
        tie_scales(op, ties, (4, 5), (op.outputs[0], 1))


def tie_fused_conv(op: Op, ties: Ties) -> None:
    """A convolution, another tensor that is added to it, and an activation."""
    convolution.tie(op, ties)
    if op.input(3):
        tie_broadcast(ties, (op.inputs[3],), op.outputs[0])


def tie_fused_matmul(op: Op, ties: Ties) -> None:
    if not (op.integer("transBatchA", 0) or op.integer("transBatchB", 0)):
        tie_matmul(op, ties, transposed=(bool(op.integer("transA", 0)), bool(op.integer("transB", 0))))


def macs_fused_matmul(op: Op, shape: ShapeOf) -> int:
    read = shape(op.inputs[0])
    return prod(shape(op.outputs[0])) * read[-2 if op.integer("transA", 0) else -1]


def gelu(approximate: str) -> Callable[[Op, Tensors], tuple[torch.Tensor, ...]]:
    def compute_gelu(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
        x, bias = given(tensors, 0), optional(tensors, 1)
        return (F.gelu(x if bias is None else x + bias, approximate=approximate),)

    return compute_gelu


RULES = {
    f"{DOMAIN}::{key}": rule
    for key, rule in {
        "QLinearAdd": Rule(tie=tie_values(0, 3), compute=compute),
        "QLinearMul": Rule(tie=tie_values(0, 3), compute=compute),
        "QLinearSigmoid": Rule(tie=tie_values(0), compute=compute),
        "QLinearLeakyRelu": Rule(tie=tie_values(0), compute=compute),
        "QLinearAveragePool": Rule(tie=tie_pool, compute=compute),
        "QLinearGlobalAveragePool": Rule(tie=tie_pool, compute=compute),
        "QLinearConcat": Rule(tie=tie_concat, compute=compute),
        "Gelu": Rule(tie=elementwise.tie, compute=gelu("none")),
        "BiasGelu": Rule(tie=elementwise.tie, compute=gelu("none")),
        "FastGelu": Rule(tie=elementwise.tie, compute=gelu("tanh")),
        "FusedConv": Rule(tie=tie_fused_conv, compute=compute, macs=convolution.macs, follow=convolution.follow),
        "FusedGemm": Rule(tie=tie_gemm, compute=compute, macs=macs_gemm),
        "FusedMatMul": Rule(tie=tie_fused_matmul, compute=compute, macs=macs_fused_matmul),
        "QGemm": Rule(tie=tie_product, compute=compute, macs=macs_matmul),
    }.items()
}
