"""Matrix products: Gemm and MatMul, with a constant on either side or none.

The axis that is contracted against a constant weight is where units are read; the weight's other axis is where they
are made. Two computed operands are cut together, and masked in one of them.
"""

from dataclasses import replace
from math import prod

import torch

from worker.engine.graph import Op
from worker.engine.ops.elementwise import tie_broadcast
from worker.engine.ops.linear import Linear, Shapes, contraction
from worker.engine.ops.rule import NoTorchForm, Rule, ShapeOf, Tensors, given, optional
from worker.engine.ties import Axis, Ties

FIRST = (0, 1)  # the input slots of both operands
MATRIX = 2  # dimensions of a weight that every vector is multiplied by


def _tie_contraction(op: Op, ties: Ties, a: Axis, b: Axis, slots: tuple[int, int] = FIRST) -> None:
    """A mask on one operand is enough: what the other holds at a removed index is multiplied by zero."""
    ties.tie(a, b)
    if a[0] in ties.graph.static:
        ties.consume(op, slots[1], b[1], a[0], a[1])
    else:
        ties.consume(op, slots[0], a[1], b[0], b[1])


def tie_gemm(op: Op, ties: Ties, slots: tuple[int, int] = FIRST, bias: int = 2) -> None:
    a, b, y = op.inputs[slots[0]], op.inputs[slots[1]], op.outputs[0]
    a_inner = 0 if op.integer("transA", 0) else 1
    b_inner = 1 if op.integer("transB", 0) else 0
    _tie_contraction(op, ties, (a, a_inner), (b, b_inner), slots)
    ties.tie((a, 1 - a_inner), (y, 0))
    ties.tie((b, 1 - b_inner), (y, 1))
    ties.produce(op, b, 1 - b_inner)
    ties.produce(op, a, 1 - a_inner)
    if op.input(bias):
        tie_broadcast(ties, (op.inputs[bias],), y)


def macs_gemm(op: Op, shape: ShapeOf) -> int:
    inner = shape(op.inputs[0])[0 if op.integer("transA", 0) else 1]
    return prod(shape(op.outputs[0])) * inner


def compute_gemm(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    a, b, c = given(tensors, 0), given(tensors, 1), optional(tensors, 2)
    if not a.is_floating_point():
        raise NoTorchForm
    a = a.T if op.integer("transA", 0) else a
    b = b.T if op.integer("transB", 0) else b
    alpha, beta = op.number("alpha", 1.0), op.number("beta", 1.0)
    if c is None:
        return (alpha * (a @ b),)
    return (torch.addmm(c.expand(a.shape[0], b.shape[1]), a, b, beta=beta, alpha=alpha),)


def tie_matmul(
    op: Op, ties: Ties, slots: tuple[int, int] = FIRST, transposed: tuple[bool, bool] = (False, False)
) -> None:
    """`transposed`: which of both operands has its last two axes the other way round."""
    a, b, y = op.inputs[slots[0]], op.inputs[slots[1]], op.outputs[0]
    rank_a, rank_b, rank_y = (len(ties.shape(name)) for name in (a, b, y))
    if rank_b == 1 and rank_a > 1:  # a weight for each unit, summed
        _tie_contraction(op, ties, (a, rank_a - 1), (b, 0), slots)
        for axis in range(rank_a - 1):
            ties.tie((a, axis), (y, axis))
        return
    if min(rank_a, rank_b) < 2:
        return  # a vector on the left: silence pins
    a_inner, b_inner = rank_a - 1 - transposed[0], rank_b - 2 + transposed[1]
    a_outer, b_outer = rank_a - 2 + transposed[0], rank_b - 1 - transposed[1]
    _tie_contraction(op, ties, (a, a_inner), (b, b_inner), slots)
    ties.tie((a, a_outer), (y, rank_y - 2))
    ties.tie((b, b_outer), (y, rank_y - 1))
    ties.produce(op, b, b_outer)
    ties.produce(op, a, a_outer)
    tie_broadcast(ties, (a, b), y, spare=2)


def macs_matmul(op: Op, shape: ShapeOf) -> int:
    return prod(shape(op.outputs[0])) * shape(op.inputs[0])[-1]


def compute_matmul(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    a, b = given(tensors, 0), given(tensors, 1)
    if not a.is_floating_point():
        raise NoTorchForm
    return (a @ b,)


def linear_gemm(op: Op, shapes: Shapes, constant: int) -> Linear | None:
    alpha, bias = op.number("alpha", 1.0), op.input(2)
    sides = ("km" if op.integer("transA", 0) else "mk"), ("nk" if op.integer("transB", 0) else "kn")
    if alpha == 0.0:
        return None
    names = op.inputs[1 - constant], op.inputs[constant]
    found = contraction(names, shapes, op.outputs[0], (sides[1 - constant], sides[constant], "mn"), 1 - constant)
    if found is None:
        return None
    return replace(
        found,
        matrix=lambda array: alpha * found.matrix(array),
        array=lambda matrix: found.array(matrix) / alpha,
        bias=bias,
        bias_scale=op.number("beta", 1.0),
        bias_shape=shapes.get(bias, ()),
    )


def linear_matmul(op: Op, shapes: Shapes, constant: int) -> Linear | None:
    """With the constant on the right every vector of the left operand is a row, with the constant on the left every
    column of the right one. Leading axes of the constant are blocks, or outputs where it alone has them."""
    ranks = [len(shapes[name]) for name in op.inputs]
    if min(ranks) < MATRIX:
        return None
    rank = max(ranks)
    axes = [[f"{place}" for place in range(rank - own, rank - 2)] for own in ranks]
    for place in {*axes[0]} & {*axes[1]}:
        sizes = [shapes[name][int(place) - (rank - own)] for name, own in zip(op.inputs, ranks, strict=True)]
        if sizes[constant] == 1:  # it has nothing to say of that axis
            axes[constant] = ["" if label == place else label for label in axes[constant]]
        elif sizes[1 - constant] == 1:
            return None
    left, right = [*axes[0], "m", "k"], [*axes[1], "k", "n"]
    y = [*(f"{place}" for place in range(rank - 2)), "m", "n"]
    x, w = (right, left) if constant == 0 else (left, right)
    names = op.inputs[1 - constant], op.inputs[constant]
    return contraction(names, shapes, op.outputs[0], (x, w, y), 1 - constant)


RULES = {
    "Gemm": Rule(tie=tie_gemm, compute=compute_gemm, macs=macs_gemm, linear=linear_gemm),
    "MatMul": Rule(tie=tie_matmul, compute=compute_matmul, macs=macs_matmul, linear=linear_matmul),
}
