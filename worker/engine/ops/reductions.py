"""Reductions, and what else mixes the indices of one axis: ArgMax, TopK, CumSum, normalisations without weights.

The axes that are not mixed pass. A sum reads the axis it adds up, as a product with a weight does: what reads as zero
adds nothing. A mean over it becomes that of the units that stay, where the caller asked for `lossy`. Over any other
operator's axis nothing goes.
"""

from collections.abc import Callable, Sequence

import torch

from worker.engine.graph import Array, Op
from worker.engine.ops.elementwise import tie_others
from worker.engine.ops.rule import NoTorchForm, Rule, Tensors, given
from worker.engine.primitives import OverKept, Primitives, Value
from worker.engine.ties import Ties

Axes = tuple[int, ...]
SUMS = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum")
Reduce = Callable[[torch.Tensor, Axes, bool], torch.Tensor]


def _keeps(op: Op) -> bool:
    """As onnxruntime reads it: 1 keeps the axes, any other number does not."""
    return op.integer("keepdims", 1) == 1


def reduced(op: Op, rank: int, axes: Sequence[int] | None) -> Axes | None:
    """Which axes are reduced; None where nothing is."""
    if axes is None or len(axes) == 0:
        return None if op.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({int(axis) % rank for axis in axes}))


def tie(op: Op, ties: Ties) -> None:
    x, y = op.inputs[0], op.outputs[0]
    rank = len(ties.shape(x))
    listed: Sequence[int] | None = op.ints("axes") or None
    if op.input(1):
        if op.inputs[1] not in ties.graph.static:
            return
        listed = [int(one) for one in ties.seen.small[op.inputs[1]]]
    axes = reduced(op, rank, listed)
    kept = [axis for axis in range(rank) if axes is None or axis not in axes]
    keepdims = _keeps(op) or axes is None
    for position, axis in enumerate(kept):
        ties.tie((x, axis), (y, axis if keepdims else position))
    for axis in axes or ():
        if op.key == "ReduceMean":
            ties.statistic(op, axis, "axis_mixed", "takes the mean")
        if op.key in SUMS:
            ties.speak((x, axis))
        if op.key in (*SUMS, "ReduceMean"):
            ties.consume(op, 0, axis, averages=op.key == "ReduceMean")


def mean_over_kept(op: Op, build: Primitives, mask: Array) -> tuple[Value, ...]:
    """The mean of what is zero where a unit is gone, times all units over those that stay."""
    masked = build("Mul", build.wide(build.input(0)), build.constant(mask))
    mean = build(op.key, masked, *build.inputs[1:], **build.attrs)
    return (build.narrow(build("Mul", mean, build.constant(1 / mask.mean(dtype="float64")))),)


def reduction(
    function: Reduce,
    alone: Callable[[torch.Tensor], torch.Tensor] | None = None,
    whole: bool = True,
    passes: bool = False,
    over_kept: OverKept | None = None,
) -> Rule:
    """`alone` is what becomes of a value with which none is reduced; `whole`: whole numbers have this form too."""

    def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
        x = given(tensors, 0)
        listed = tensors[1] if len(tensors) > 1 else None
        axes = reduced(op, x.ndim, op.ints("axes") if listed is None else listed.tolist())
        if not (whole or x.is_floating_point()):
            raise NoTorchForm
        if axes is None:
            return (alone(x) if alone else x,)
        return (function(x, axes, _keeps(op)).to(x.dtype),) if axes else (x,)

    return Rule(tie=tie, compute=compute, passes=passes, over_kept=over_kept)


def _extreme(function: Callable[[torch.Tensor, Axes, bool], torch.Tensor], empty: float) -> Reduce:
    def compute(x: torch.Tensor, axes: Axes, keepdims: bool) -> torch.Tensor:
        if 0 in x.shape:
            if not x.is_floating_point():
                raise NoTorchForm
            shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keepdims or axis not in axes]
            return x.new_full(shape, empty)
        return function(x.to(torch.uint8) if x.dtype == torch.bool else x, axes, keepdims)

    return compute


def _product(x: torch.Tensor, axes: Axes, keepdims: bool) -> torch.Tensor:
    for axis in reversed(axes):
        x = x.prod(dim=axis, keepdim=keepdims)
    return x


def tie_one_axis(op: Op, ties: Ties) -> None:
    """All but the axis named by an attribute passes."""
    x = op.inputs[0]
    mixed = op.integer("axis", -1 if op.key == "TopK" else 0) % len(ties.shape(x))
    if _keeps(op):
        for y in op.outputs:
            if y:
                tie_others(ties, x, y, {mixed})
    else:
        for axis in range(len(ties.shape(x))):
            if axis != mixed:
                ties.tie((x, axis), (op.outputs[0], axis if axis < mixed else axis - 1))


def choice(function: Callable[..., torch.Tensor]) -> Rule:
    def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
        x, axis = given(tensors, 0), op.integer("axis", 0)
        keepdims = _keeps(op)
        if not op.integer("select_last_index", 0):
            return (function(x, dim=axis, keepdim=keepdims),)
        return (x.shape[axis] - 1 - function(x.flip(axis), dim=axis, keepdim=keepdims),)

    return Rule(tie=tie_one_axis, compute=compute)


def top_k(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    if len(tensors) < 2 or (not x.is_floating_point() and x.dtype != torch.int64):
        raise NoTorchForm
    axis = op.integer("axis", -1)
    order = torch.sort(x, dim=axis, descending=bool(op.integer("largest", 1)), stable=True)
    count = int(given(tensors, 1))
    return order.values.narrow(axis, 0, count), order.indices.narrow(axis, 0, count)


def tie_cumulative(op: Op, ties: Ties) -> None:
    x, y = op.inputs[0], op.outputs[0]
    if op.inputs[1] in ties.graph.static:
        tie_others(ties, x, y, {int(ties.seen.small[op.inputs[1]].item()) % len(ties.shape(x))})


def cumulative(function: Callable[..., torch.Tensor], start: int) -> Rule:
    def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
        x, axis = given(tensors, 0), int(given(tensors, 1))
        x = x.flip(axis) if op.integer("reverse", 0) else x
        y = function(x, dim=axis).to(x.dtype)
        if op.integer("exclusive", 0):
            y = torch.cat(
                [torch.full_like(y.narrow(axis, 0, 1), start), y.narrow(axis, 0, y.shape[axis] - 1)], dim=axis
            )
        return (y.flip(axis) if op.integer("reverse", 0) else y,)

    return Rule(tie=tie_cumulative, compute=compute)


def tie_lp(op: Op, ties: Ties) -> None:
    """The length is a sum: what reads as zero does not change it."""
    x, axis = op.inputs[0], op.integer("axis", -1) % len(ties.shape(op.inputs[0]))
    tie_others(ties, x, op.outputs[0], set())
    ties.consume(op, 0, axis)


def lp_normalization(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, axis = given(tensors, 0), op.integer("axis", -1)
    norm = torch.linalg.vector_norm(x, ord=op.integer("p", 2), dim=axis, keepdim=True)
    return (torch.where(norm == 0, torch.zeros_like(x), x / norm),)


def tie_hardmax(op: Op, ties: Ties) -> None:
    x = op.inputs[0]
    rank = len(ties.shape(x))
    axis = op.integer("axis", -1 if op.opset >= 13 else 1) % rank
    tie_others(ties, x, op.outputs[0], {axis} if op.opset >= 13 else set(range(axis, rank)))


def hardmax(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    axis = op.integer("axis", -1 if op.opset >= 13 else 1) % x.ndim
    flat = x if op.opset >= 13 else x.flatten(axis)
    first = flat.argmax(dim=axis, keepdim=True)
    return (torch.zeros_like(flat).scatter(axis, first, 1).reshape(x.shape),)


def tie_mean_variance(op: Op, ties: Ties) -> None:
    rank = len(ties.shape(op.inputs[0]))
    tie_others(ties, op.inputs[0], op.outputs[0], {axis % rank for axis in op.ints("axes", (0, 2, 3))})


def mean_variance(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, axes = given(tensors, 0), op.ints("axes", (0, 2, 3))
    mean = x.mean(dim=axes, keepdim=True)
    return ((x - mean) / (x.square().mean(dim=axes, keepdim=True) - mean.square()).sqrt().add(1e-9),)


RULES = {
    "ReduceMean": reduction(
        lambda x, axes, keep: x.mean(axes, keep), whole=False, passes=True, over_kept=mean_over_kept
    ),
    "ReduceSum": reduction(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceMax": reduction(_extreme(lambda x, axes, keep: x.amax(axes, keep), -torch.inf), passes=True),
    "ReduceMin": reduction(_extreme(lambda x, axes, keep: x.amin(axes, keep), torch.inf), passes=True),
    "ReduceProd": reduction(_product),
    "ReduceL1": reduction(lambda x, axes, keep: x.abs().sum(axes, keep), torch.abs),
    "ReduceL2": reduction(lambda x, axes, keep: x.square().sum(axes, keep).sqrt(), torch.abs, whole=False),
    "ReduceSumSquare": reduction(lambda x, axes, keep: x.square().sum(axes, keep), torch.square),
    "ReduceLogSum": reduction(lambda x, axes, keep: x.sum(axes, keep).log(), torch.log, whole=False),
    "ReduceLogSumExp": reduction(lambda x, axes, keep: x.logsumexp(axes, keep), whole=False),
    "ArgMax": choice(torch.argmax),
    "ArgMin": choice(torch.argmin),
    "TopK": Rule(tie=tie_one_axis, compute=top_k),
    "CumSum": cumulative(torch.cumsum, 0),
    "CumProd": cumulative(torch.cumprod, 1),
    "LpNormalization": Rule(tie=tie_lp, compute=lp_normalization),
    "Hardmax": Rule(tie=tie_hardmax, compute=hardmax),
    "MeanVarianceNormalization": Rule(tie=tie_mean_variance, compute=mean_variance),
}
