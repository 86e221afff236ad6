"""Operators of onnxruntime's own domain that its quantiser writes: sums, pools and products of quantised values.

They pass units as the operators that they are named after do. They have no torch form: onnxruntime computes them.
"""

from collections.abc import Callable

import torch

from worker.engine.graph import Op
from worker.engine.ops.elementwise import tie_broadcast
from worker.engine.ops.layout import tie_joined
from worker.engine.ops.products import tie_gemm
from worker.engine.ops.quantised import macs_matmul, single, tie_scales
from worker.engine.ops.rule import NoTorchForm, Rule, Tensors
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
        "QGemm": Rule(tie=tie_product, compute=compute, macs=macs_matmul),
    }.items()
}
