"""Attention and rotary positions, as operators of their own (opset 23 and later).

Whole heads go: a unit is a key-value head with all query heads that read it. In the form with four dimensions the width
of the values passes too, and that of queries and keys where the scale is written down; by default the scale depends
on the width, which then stays.
"""

from math import sqrt

import torch

from worker.engine.graph import Op
from worker.engine.ops.rule import Follow, Rule, ShapeOf, Tensors, given, optional
from worker.engine.ties import Axis, Points, Ties

DOUBLE = 11  # onnx.TensorProto.DOUBLE
KEY_VALUE = (1, 2, 4, 5)  # input slots of keys and values, then of their caches; outputs 1 and 2 are the new caches


def _head_axis(ties: Ties, name: str) -> Axis:
    """Where the heads lie: an axis of their own, or side by side on the last one."""
    return name, 1 if len(ties.shape(name)) == 4 else 2


def _counts(op: Op, ties: Ties) -> tuple[int, int]:
    """Heads of the queries and of keys and values."""
    if len(ties.shape(op.inputs[0])) == 4:
        return ties.shape(op.inputs[0])[1], ties.shape(op.inputs[1])[1]
    return op.integer("q_num_heads", 1), op.integer("kv_num_heads", 1)


def tie(op: Op, ties: Ties) -> None:
    queries, heads = _counts(op, ties)
    carrier = ties.points(_head_axis(ties, op.inputs[1])).reshape(heads, -1)[:, :1]
    outputs = (*op.outputs, "", "", "")
    axes = [_head_axis(ties, name) for slot in KEY_VALUE if (name := op.input(slot))]
    axes += [(name, 1) for name in outputs[1:3] if name]
    axes += [_head_axis(ties, op.inputs[0]), _head_axis(ties, op.outputs[0])]
    axes += [(outputs[3], 1)] if outputs[3] else []
    mask = op.input(3)
    if mask and len(ties.shape(mask)) > 2 and ties.shape(mask)[-3] == queries > 1:
        axes.append((mask, len(ties.shape(mask)) - 3))
    for axis in axes:
        own = ties.points(axis).reshape(heads, -1)
        ties.tie_points(own, carrier.repeat(own.shape[1], axis=1))
        ties.speak(axis)
    if len(ties.shape(op.inputs[0])) == 4:
        _tie_widths(op, ties, outputs)


def _tie_widths(op: Op, ties: Ties, outputs: tuple[str, ...]) -> None:
    for name in filter(None, (op.inputs[2], op.input(5), outputs[2])):
        ties.tie((name, 3), (op.outputs[0], 3))
    if "scale" in op.attrs:
        for name in filter(None, (op.inputs[1], op.input(4), outputs[1])):
            ties.tie((name, 3), (op.inputs[0], 3))
        ties.consume(op, 0, 3)


def follow(op: Op, ties: Ties, after: ShapeOf) -> Follow:
    """The numbers of heads, where they are written down."""
    attrs = {}
    for slot, name in ((0, "q_num_heads"), (1, "kv_num_heads")):
        before, kept = ties.shape(op.inputs[slot])[-1], after(op.inputs[slot])[-1]
        if len(ties.shape(op.inputs[slot])) == 3 and before != kept:
            attrs[name] = op.integer(name, 1) * kept // before
    return Follow(attrs=attrs)


def macs(op: Op, shape: ShapeOf) -> int:
    """Scores, then the mixture of values."""
    q, k, v = (shape(name) for name in op.inputs[:3])
    if len(q) == 3:
        heads = op.integer("q_num_heads", 1)
        steps, keys, width = q[1], k[1], v[2] // max(op.integer("kv_num_heads", 1), 1)
        return q[0] * steps * keys * (q[2] + heads * width)
    return q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])


def _apart(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(samples, steps, heads * width) -> (samples, heads, steps, width)."""
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _bias(op: Op, tensors: Tensors, scores: torch.Tensor, past: int) -> torch.Tensor:
    """What is added to the scores: minus infinity where a step must not look."""
    steps, keys = scores.shape[-2:]
    bias = scores.new_zeros(1, 1, steps, keys)
    mask, valid = optional(tensors, 3), optional(tensors, 6)
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = scores.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)
        bias = bias + torch.nn.functional.pad(mask, (0, keys - mask.shape[-1]), value=-torch.inf)
    place = torch.arange(keys, device=scores.device)
    offset = torch.tensor([past], device=scores.device) if valid is None else valid - steps
    own = torch.arange(steps, device=scores.device)[:, None] + offset.reshape(-1, 1, 1, 1)
    behind, ahead = op.integer("left_window_size", -1), op.integer("right_window_size", -1)
    if op.integer("is_causal", 0):
        bias = bias.masked_fill(place > own, -torch.inf)
    if behind >= 0:
        bias = bias.masked_fill(place < own - behind, -torch.inf)
    if ahead >= 0:
        bias = bias.masked_fill(place > own + ahead, -torch.inf)
    if valid is not None:
        bias = bias.masked_fill(place >= valid.reshape(-1, 1, 1, 1), -torch.inf)
    return bias


def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    q, k, v = (given(tensors, slot) for slot in range(3))
    flat = q.ndim == 3
    q = _apart(q, op.integer("q_num_heads", 1))
    k, v = (_apart(one, op.integer("kv_num_heads", 1)) for one in (k, v))
    past_k, past_v = optional(tensors, 4), optional(tensors, 5)
    past = 0 if past_k is None else past_k.shape[2]
    if past_k is not None and past_v is not None:
        k, v = torch.cat((past_k, k), dim=2), torch.cat((past_v, v), dim=2)
    repeats = q.shape[1] // k.shape[1]
    scale = op.number("scale", 1 / sqrt(q.shape[-1]))
    scores = (q * sqrt(scale)) @ (k.repeat_interleave(repeats, dim=1) * sqrt(scale)).transpose(-1, -2)
    cap = op.number("softcap", 0.0)
    capped = cap * torch.tanh(scores / cap) if cap else scores
    biased = capped + _bias(op, tensors, scores, past)
    precision = torch.float64 if op.integer("softmax_precision", 0) == DOUBLE else torch.float32
    weights = torch.softmax(biased, dim=-1, dtype=precision).to(biased.dtype)
    # A step that may look nowhere gets zeros instead of 0 / 0.
    weights = weights.masked_fill((biased == -torch.inf).all(dim=-1, keepdim=True), 0)
    y = weights @ v.repeat_interleave(repeats, dim=1)
    shown = (scores, capped, biased, weights)[op.integer("qk_matmul_output_mode", 0)]
    return (y.transpose(1, 2).flatten(2) if flat else y, k, v, shown)


def _rotary_heads(op: Op, ties: Ties) -> Points:
    axis = _head_axis(ties, op.inputs[0])
    heads = ties.size(axis) if axis[1] == 1 else op.integer("num_heads", 1)
    return ties.points(axis).reshape(heads, -1)


def tie_rotary(op: Op, ties: Ties) -> None:
    """Angles are alike in all heads: whole heads pass, the width stays."""
    own = _rotary_heads(op, ties)
    ties.tie_points(own, own[:, :1].repeat(own.shape[1], axis=1))
    ties.tie(_head_axis(ties, op.inputs[0]), _head_axis(ties, op.outputs[0]))


def follow_rotary(op: Op, ties: Ties, after: ShapeOf) -> Follow:
    x = op.inputs[0]
    heads, before, kept = op.integer("num_heads", 0), ties.shape(x)[-1], after(x)[-1]
    return Follow(attrs={"num_heads": heads * kept // before}) if heads and before != kept else Follow()


def rotary(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, cos, sin, places = given(tensors, 0), given(tensors, 1), given(tensors, 2), optional(tensors, 3)
    flat = x.ndim == 3
    apart = _apart(x, op.integer("num_heads", 1))
    if places is not None:
        cos, sin = cos[places], sin[places]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # one for all heads
    size = op.integer("rotary_embedding_dim", 0) or apart.shape[-1]
    turned, rest = apart[..., :size], apart[..., size:]
    if op.integer("interleaved", 0):
        one, other = turned[..., 0::2], turned[..., 1::2]
    else:
        one, other = turned.chunk(2, dim=-1)
    parts = cos * one - sin * other, sin * one + cos * other
    joined = torch.stack(parts, dim=-1).flatten(-2) if op.integer("interleaved", 0) else torch.cat(parts, dim=-1)
    y = torch.cat((joined, rest), dim=-1)
    return (y.transpose(1, 2).flatten(2) if flat else y,)


RULES = {
    "Attention": Rule(tie=tie, compute=compute, macs=macs, follow=follow),
    "RotaryEmbedding": Rule(tie=tie_rotary, compute=rotary, follow=follow_rotary),
}
