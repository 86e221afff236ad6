"""Elementwise operators of one or more inputs, with broadcasting; Softmax, which is elementwise across other axes.

Every output index is tied to the same index of each input, aligned from the right. An axis of size one that is
stretched carries nothing and is pinned.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce

import torch
import torch.nn.functional as F

from worker.engine.graph import Array, Op
from worker.engine.ops.rule import NoTorchForm, Range, RangeOf, Rule, Tensors, given, no_range, optional
from worker.engine.ties import Ties


def tie_broadcast(ties: Ties, inputs: Iterable[str], output: str, spare: int = 0) -> None:
    """Tie inputs to the output, aligned from the right, leaving out the last `spare` axes of each."""
    shape = ties.shape(output)
    for name in inputs:
        own = ties.shape(name)
        for axis in range(len(own) - spare):
            target = len(shape) - len(own) + axis
            if own[axis] == shape[target]:
                ties.tie((name, axis), (output, target))
            else:
                ties.pin((name, axis), "broadcast", "an axis of size one is stretched there")


def tie_others(ties: Ties, x: str, y: str, mixed: set[int]) -> None:
    """Tie every axis but those that the operator mixes."""
    for axis in range(len(ties.shape(x))):
        if axis not in mixed:
            ties.tie((x, axis), (y, axis))


def tie(op: Op, ties: Ties) -> None:
    names = [name for name in op.inputs if name]
    for output in op.outputs:
        if output:
            tie_broadcast(ties, names, output)


def tie_first(op: Op, ties: Ties) -> None:
    """For operators whose further inputs are settings (Clip's bounds, Dropout's ratio)."""
    for output in op.outputs:
        if output:
            tie_broadcast(ties, op.inputs[:1], output)


def tie_dropout(op: Op, ties: Ties) -> None:
    """In training it draws a number for every element, and others for fewer elements."""
    training = op.input(2)
    if not training or (training in ties.graph.constants and not ties.graph.constants[training].any()):
        tie_first(op, ties)


def unary(function: Callable[[torch.Tensor], torch.Tensor], bounds: Range = None, passes: bool = False) -> Rule:
    def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
        return (function(given(tensors, 0)),)

    return Rule(tie=tie_first, compute=compute, range=lambda op, constants: bounds, passes=passes, in_place=True)


def with_attrs(function: Callable[[Op, torch.Tensor], torch.Tensor], bounds: RangeOf = no_range) -> Rule:
    def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
        return (function(op, given(tensors, 0)),)

    return Rule(tie=tie_first, compute=compute, range=bounds, in_place=True)


def fold(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Rule:
    """An operator of two or more inputs, taken pairwise from the left."""

    def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
        return (reduce(function, [one for one in tensors if one is not None]),)

    return Rule(tie=tie, compute=compute, in_place=True)


def divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """ONNX truncates integer quotients towards zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def clip(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    low: torch.Tensor | float | None = optional(tensors, 1)
    high: torch.Tensor | float | None = optional(tensors, 2)
    if "min" in op.attrs or "max" in op.attrs:  # opset 6
        low, high = op.number("min", -torch.inf), op.number("max", torch.inf)
    x = given(tensors, 0)
    if low is not None:
        x = torch.maximum(x, torch.as_tensor(low, dtype=x.dtype, device=x.device))
    if high is not None:
        x = torch.minimum(x, torch.as_tensor(high, dtype=x.dtype, device=x.device))
    return (x,)


def dropout(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    """Inference: the data as it is, and a mask of ones where one is asked for."""
    training = optional(tensors, 2)
    if training is not None and bool(training):
        raise NoTorchForm
    x = given(tensors, 0)
    return (x,) if len(op.outputs) == 1 else (x, torch.ones_like(x, dtype=torch.bool))


def prelu(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, slope = given(tensors, 0), given(tensors, 1)
    return (torch.where(x < 0, x * slope, x),)


def hard_sigmoid(op: Op, x: torch.Tensor) -> torch.Tensor:
    return torch.clamp(op.number("alpha", 0.2) * x + op.number("beta", 0.5), 0, 1)


def gelu(op: Op, x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate=op.text("approximate", "none"))


def selu(op: Op, x: torch.Tensor) -> torch.Tensor:
    alpha, gamma = op.number("alpha", 1.6732632), op.number("gamma", 1.0507010)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


def shrink(op: Op, x: torch.Tensor) -> torch.Tensor:
    edge, bias = op.number("lambd", 0.5), op.number("bias", 0.0)
    return torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, torch.zeros_like(x)))


def _softmax_axes(op: Op, rank: int) -> tuple[int, bool]:
    """The axis, and whether everything from it on is normalised together (before opset 13)."""
    together = op.opset < 13
    axis = op.integer("axis", 1 if together else -1)
    return axis % rank, together


def tie_softmax(op: Op, ties: Ties) -> None:
    x, y = op.inputs[0], op.outputs[0]
    rank = len(ties.shape(x))
    axis, together = _softmax_axes(op, rank)
    for other in range(rank):
        ties.tie((x, other), (y, other))
        if other == axis or (together and other > axis):
            ties.pin((x, other), "normalised", f"{op.label()} normalises over it: removing a part changes the rest")


def softmax(log: bool) -> Rule:
    function = torch.log_softmax if log else torch.softmax

    def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
        x = given(tensors, 0)
        axis, together = _softmax_axes(op, x.ndim)
        return (function(x.flatten(axis), dim=axis).reshape(x.shape) if together else function(x, dim=axis),)

    return Rule(tie=tie_softmax, compute=compute)


def clip_range(op: Op, constants: Mapping[str, Array]) -> Range:
    """Both bounds, where both are known: attributes up to opset 6, constant inputs after."""
    if {"min", "max"} <= op.attrs.keys():
        return op.number("min", 0.0), op.number("max", 0.0)
    low, high = constants.get(op.input(1)), constants.get(op.input(2))
    return None if low is None or high is None else (float(low.item()), float(high.item()))


RULES = {
    "Relu": unary(torch.relu),
    "Sigmoid": unary(torch.sigmoid, bounds=(0.0, 1.0)),
    "Tanh": unary(torch.tanh, bounds=(-1.0, 1.0)),
    "HardSigmoid": with_attrs(hard_sigmoid, bounds=lambda op, constants: (0.0, 1.0)),
    "Softsign": unary(F.softsign, bounds=(-1.0, 1.0)),
    "LeakyRelu": with_attrs(lambda op, x: F.leaky_relu(x, op.number("alpha", 0.01))),
    "Elu": with_attrs(lambda op, x: F.elu(x, op.number("alpha", 1.0))),
    "Celu": with_attrs(lambda op, x: F.celu(x, op.number("alpha", 1.0))),
    "ThresholdedRelu": with_attrs(lambda op, x: torch.where(x > op.number("alpha", 1.0), x, 0.0)),
    "Selu": with_attrs(selu),
    "Swish": with_attrs(lambda op, x: x * torch.sigmoid(op.number("alpha", 1.0) * x)),
    "Shrink": with_attrs(shrink),
    "Gelu": with_attrs(gelu),
    "HardSwish": unary(F.hardswish),
    "Softplus": unary(F.softplus),
    "Mish": unary(F.mish),
    "Erf": unary(torch.erf, bounds=(-1.0, 1.0)),
    "Exp": unary(torch.exp),
    "Log": unary(torch.log),
    "Sin": unary(torch.sin, bounds=(-1.0, 1.0)),
    "Cos": unary(torch.cos, bounds=(-1.0, 1.0)),
    "Tan": unary(torch.tan),
    "Asin": unary(torch.asin),
    "Acos": unary(torch.acos),
    "Atan": unary(torch.atan),
    "Sinh": unary(torch.sinh),
    "Cosh": unary(torch.cosh),
    "Asinh": unary(torch.asinh),
    "Acosh": unary(torch.acosh),
    "Atanh": unary(torch.atanh),
    "Floor": unary(torch.floor),
    "Ceil": unary(torch.ceil),
    "Round": unary(torch.round),
    "Sign": unary(torch.sign),
    "Sqrt": unary(torch.sqrt),
    "Reciprocal": unary(torch.reciprocal),
    "Neg": unary(torch.neg),
    "Abs": unary(torch.abs),
    "Identity": unary(lambda x: x, passes=True),
    "Dropout": Rule(tie=tie_dropout, compute=dropout, passes=True, alias=True),
    "Clip": Rule(tie=tie_first, compute=clip, range=clip_range, in_place=True),
    "PRelu": Rule(tie=tie, compute=prelu, in_place=True),
    "Add": fold(torch.add),
    "Sub": fold(torch.sub),
    "Mul": fold(torch.mul),
    "Div": fold(divide),
    "Min": fold(torch.minimum),
    "Max": fold(torch.maximum),
    "Sum": fold(torch.add),
    "Softmax": softmax(log=False),
    "LogSoftmax": softmax(log=True),
}
