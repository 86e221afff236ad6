"""ONNX forms of torch's fused attention, which a module in evaluation mode takes where no gradients are asked for.

`_native_multi_head_attention` (nn.MultiheadAttention) and `_transformer_encoder_layer_fwd` (the layers of an encoder),
samples first, without masks. With a mask they stay without a form, and the exporter says so.
"""

from math import sqrt
from typing import Any

import torch
from torch.onnx import symbolic_helper
from torch.onnx.utils import register_custom_op_symbolic

HELPER: Any = symbolic_helper  # without types
MASKED = "a mask; trace the module with gradients enabled, which takes the plain operators"


def register(opset: int) -> None:
    """Make the exporter use these forms, in this process."""
    register_custom_op_symbolic("aten::_native_multi_head_attention", _attention, opset)
    register_custom_op_symbolic("aten::_transformer_encoder_layer_fwd", _encoder_layer, opset)


def _numbers(g: Any, *values: int) -> Any:
    return g.op("Constant", value_t=torch.tensor(values))


def _real(g: Any, like: Any, value: float) -> Any:
    return g.op("Constant", value_t=torch.tensor(value, dtype=like.type().dtype() or torch.float32))


def _linear(g: Any, x: Any, weight: Any, bias: Any) -> Any:
    y = g.op("MatMul", x, g.op("Transpose", weight, perm_i=[1, 0]))
    return y if HELPER._is_none(bias) else g.op("Add", y, bias)


def _part(g: Any, packed: Any, place: int, size: int) -> Any:
    """The weights of queries, keys or values, which lie below each other."""
    if HELPER._is_none(packed):
        return packed
    return g.op("Slice", packed, _numbers(g, place * size), _numbers(g, (place + 1) * size), _numbers(g, 0))


def _like(g: Any, x: Any, *sizes: int) -> Any:
    """Samples and steps as they are, then these sizes."""
    front = g.op("Slice", g.op("Shape", x), _numbers(g, 0), _numbers(g, 2), _numbers(g, 0))
    return g.op("Concat", front, _numbers(g, *sizes), axis_i=0)


def _attend(g: Any, inputs: tuple[Any, Any, Any], heads: int, size: int, weights: tuple[Any, ...]) -> tuple[Any, Any]:
    """The mixture of values, projected, and the shares of each head."""
    packed, packed_bias, out, out_bias = weights
    parts = []
    for place, one in enumerate(inputs):
        whole = _linear(g, one, _part(g, packed, place, size), _part(g, packed_bias, place, size))
        apart = g.op("Reshape", whole, _like(g, one, heads, size // heads))
        parts.append(g.op("Transpose", apart, perm_i=[0, 2, 3, 1] if place == 1 else [0, 2, 1, 3]))
    queries, keys, values = parts
    scores = g.op("Mul", g.op("MatMul", queries, keys), _real(g, inputs[0], 1 / sqrt(size // heads)))
    shares = g.op("Softmax", scores, axis_i=-1)
    mixed = g.op("Transpose", g.op("MatMul", shares, values), perm_i=[0, 2, 1, 3])
    return _linear(g, g.op("Reshape", mixed, _like(g, inputs[0], size)), out, out_bias), shares


def _attention(
    g: Any, query: Any, key: Any, value: Any, size: Any, heads: Any, packed: Any, packed_bias: Any, out: Any,
    out_bias: Any, mask: Any = None, need_weights: Any = None, average: Any = None, *_: Any,
) -> Any:  # fmt: skip
    if mask is not None and not HELPER._is_none(mask):
        return HELPER._unimplemented("_native_multi_head_attention", MASKED, query)
    count = HELPER._get_const(heads, "i", "num_head")
    width = HELPER._get_const(size, "i", "embed_dim")
    found, shares = _attend(g, (query, key, value), count, width, (packed, packed_bias, out, out_bias))
    found.setType(query.type().with_sizes([None, None, width]))
    if not HELPER._get_const(need_weights, "i", "need_weights"):
        return found, g.op("Constant", value_t=torch.zeros(0))
    if HELPER._get_const(average, "i", "average_attn_weights"):
        shares = g.op("ReduceMean", shares, axes_i=[1], keepdims_i=0)
        shares.setType(query.type().with_sizes([None, None, None]))
    else:
        shares.setType(query.type().with_sizes([None, count, None, None]))
    return found, shares


def _activated(g: Any, x: Any, gelu: bool) -> Any:
    if not gelu:
        return g.op("Relu", x)
    inner = g.op("Erf", g.op("Div", x, _real(g, x, sqrt(2))))
    return g.op("Mul", g.op("Mul", x, g.op("Add", inner, _real(g, x, 1.0))), _real(g, x, 0.5))


def _encoder_layer(
    g: Any, source: Any, size: Any, heads: Any, packed: Any, packed_bias: Any, out: Any, out_bias: Any, use_gelu: Any,
    norm_first: Any, eps: Any, scale_1: Any, shift_1: Any, scale_2: Any, shift_2: Any, up: Any, up_bias: Any, down: Any,
    down_bias: Any, mask: Any = None, *_: Any,
) -> Any:  # fmt: skip
    if mask is not None and not HELPER._is_none(mask):
        return HELPER._unimplemented("_transformer_encoder_layer_fwd", MASKED, source)
    count = HELPER._get_const(heads, "i", "num_heads")
    width = HELPER._get_const(size, "i", "embed_dim")
    gelu, first = (bool(HELPER._get_const(one, "i", "flag")) for one in (use_gelu, norm_first))
    small = HELPER._get_const(eps, "f", "eps")

    def norm(x: Any, scale: Any, shift: Any) -> Any:
        return g.op("LayerNormalization", x, scale, shift, axis_i=-1, epsilon_f=small)

    def attend(x: Any) -> Any:
        return _attend(g, (x, x, x), count, width, (packed, packed_bias, out, out_bias))[0]

    def feed(x: Any) -> Any:
        return _linear(g, _activated(g, _linear(g, x, up, up_bias), gelu), down, down_bias)

    if first:
        x = g.op("Add", source, attend(norm(source, scale_1, shift_1)))
        found = g.op("Add", x, feed(norm(x, scale_2, shift_2)))
    else:
        x = norm(g.op("Add", source, attend(source)), scale_1, shift_1)
        found = norm(g.op("Add", x, feed(x)), scale_2, shift_2)
    found.setType(source.type().with_sizes([None, None, width]))
    return found
