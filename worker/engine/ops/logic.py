"""Comparisons, logic, bits, choices between tensors, and changes of type: elementwise, with broadcasting."""

from collections.abc import Callable

import onnx
import torch

from worker.engine.graph import Op
from worker.engine.ops.elementwise import fold, tie, tie_first, unary
from worker.engine.ops.rule import NoTorchForm, Rule, Tensors, given

TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}
HALVES: dict[int, torch.dtype] = {onnx.TensorProto.FLOAT16: torch.float16, onnx.TensorProto.BFLOAT16: torch.bfloat16}


def binary(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Rule:
    def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
        return (function(given(tensors, 0), given(tensors, 1)),)

    return Rule(tie=tie, compute=compute)


def power(x: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """The result has the type of the base."""
    return torch.pow(x, exponent).to(x.dtype)


def modulo(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    """The sign of the divisor, or of the dividend where `fmod` asks for C's."""
    x, divisor = given(tensors, 0), given(tensors, 1)
    return (torch.fmod(x, divisor) if op.integer("fmod", 0) else torch.remainder(x, divisor),)


def shift(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, bits = given(tensors, 0), given(tensors, 1)
    if x.dtype != torch.uint8:
        raise NoTorchForm  # torch has no unsigned shifts of more bits
    return (x << bits if op.text("direction", "") == "LEFT" else x >> bits,)


def where(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    return (torch.where(given(tensors, 0), given(tensors, 1), given(tensors, 2)),)


def is_inf(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    found = torch.zeros_like(x, dtype=torch.bool)
    if op.integer("detect_positive", 1):
        found = found | torch.isposinf(x)
    if op.integer("detect_negative", 1):
        found = found | torch.isneginf(x)
    return (found,)


def cast(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    """Half precision rounds, and is computed in single as everywhere."""
    x, target = given(tensors, 0), op.integer("to", 0)
    if target in HALVES:
        return (x.to(HALVES[target]).float(),)
    if target not in TYPES:
        raise NoTorchForm
    return (x.to(TYPES[target]),)


def cast_like(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    return (given(tensors, 0).to(given(tensors, 1).dtype),)


def mean(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    values = [one for one in tensors if one is not None]
    return (torch.stack(torch.broadcast_tensors(*values)).mean(dim=0),)  # type: ignore[no-untyped-call]


RULES = {
    "Equal": binary(torch.eq),
    "Greater": binary(torch.gt),
    "GreaterOrEqual": binary(torch.ge),
    "Less": binary(torch.lt),
    "LessOrEqual": binary(torch.le),
    "And": binary(torch.logical_and),
    "Or": binary(torch.logical_or),
    "Xor": binary(torch.logical_xor),
    "Not": unary(torch.logical_not),
    "BitwiseAnd": fold(torch.bitwise_and),
    "BitwiseOr": fold(torch.bitwise_or),
    "BitwiseXor": fold(torch.bitwise_xor),
    "BitwiseNot": unary(torch.bitwise_not),
    "BitShift": Rule(tie=tie, compute=shift),
    "Pow": binary(power),
    "Mod": Rule(tie=tie, compute=modulo),
    "Where": Rule(tie=tie, compute=where),
    "Mean": Rule(tie=tie, compute=mean),
    "IsNaN": unary(torch.isnan),
    "IsInf": Rule(tie=tie_first, compute=is_inf),
    "Cast": Rule(tie=tie_first, compute=cast, passes=True),
    "CastLike": Rule(tie=tie_first, compute=cast_like, passes=True),
}
