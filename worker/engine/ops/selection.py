"""Operators that pick or place elements by computed indices, or make tensors out of settings. They compute; what they
do to an axis depends on values, so their axes stay, but for those that are named here."""

import numpy as np
import torch

from worker.engine.graph import Op
from worker.engine.ops.elementwise import tie_others
from worker.engine.ops.logic import TYPES
from worker.engine.ops.rule import NoTorchForm, Rule, Tensors, given, optional
from worker.engine.ops.sizes import say_nothing
from worker.engine.ties import Ties


def _wrapped(index: torch.Tensor, size: int) -> torch.Tensor:
    """Indices counted from the end become ordinary ones."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


def gather_elements(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, axis = given(tensors, 0), op.integer("axis", 0)
    return (x.gather(axis, _wrapped(given(tensors, 1), x.shape[axis])),)


def _places(x: torch.Tensor, index: torch.Tensor, skip: int) -> tuple[torch.Tensor, ...]:
    """The last axis of `index` counts axes of x from `skip` on."""
    return tuple(_wrapped(index[..., n], x.shape[skip + n]) for n in range(index.shape[-1]))


def gather_nd(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, index = given(tensors, 0), given(tensors, 1)
    batch = op.integer("batch_dims", 0)
    if batch:
        lead = x.shape[:batch]
        count = index[..., 0].numel() // max(int(np.prod(lead)), 1)
        flat_x, flat_index = x.reshape(-1, *x.shape[batch:]), index.reshape(-1, count, index.shape[-1])
        row = torch.arange(len(flat_x), device=x.device)[:, None].expand(-1, count)
        found = flat_x[(row, *_places(flat_x, flat_index, 1))]
        return (found.reshape((*index.shape[:-1], *found.shape[2:])),)
    return (x[_places(x, index, 0)],)


REDUCED = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, axis, how = given(tensors, 0), op.integer("axis", 0), op.text("reduction", "none")
    index, source = _wrapped(given(tensors, 1), x.shape[axis]), given(tensors, 2)
    if how == "none":
        return (x.scatter(axis, index, source),)
    return (x.scatter_reduce(axis, index, source, REDUCED[how]),)


def scatter_nd(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, index, source = given(tensors, 0), given(tensors, 1), given(tensors, 2)
    how = op.text("reduction", "none")
    places = _places(x, index, 0)
    if how in ("none", "add"):
        return (x.index_put(places, source, accumulate=how == "add"),)
    depth = index.shape[-1]
    row = torch.zeros_like(places[0])
    for size, place in zip(x.shape[:depth], places, strict=True):
        row = row * size + place
    flat, source = x.reshape(-1, *x.shape[depth:]), source.reshape(-1, *x.shape[depth:])
    rows = row.reshape(-1, *[1] * (flat.ndim - 1)).expand_as(source)
    return (flat.scatter_reduce(0, rows, source, REDUCED[how]).reshape(x.shape),)


def one_hot(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    index, depth, values = given(tensors, 0), int(given(tensors, 1)), given(tensors, 2)
    axis = op.integer("axis", -1) % (index.ndim + 1)
    index = index.long()
    hot = torch.where(index < 0, index + depth, index).unsqueeze(axis)
    shape = [1] * hot.ndim
    shape[axis] = depth
    return (torch.where(hot == torch.arange(depth, device=hot.device).reshape(shape), values[1], values[0]),)


def non_zero(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    return (given(tensors, 0).nonzero().T,)


def range_(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    start, limit, step = (given(tensors, slot) for slot in range(3))
    count = max(int(torch.ceil((limit.double() - start.double()) / step.double())), 0)
    return (start + step * torch.arange(count, device=start.device).to(start.dtype),)


def eye_like(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    target = op.integer("dtype", 0)
    if target and target not in TYPES:
        raise NoTorchForm
    rows, columns = x.shape
    where = torch.arange(columns, device=x.device) - torch.arange(rows, device=x.device)[:, None]
    return ((where == op.integer("k", 0)).to(TYPES[target] if target else x.dtype),)


def tie_trilu(op: Op, ties: Ties) -> None:
    """Which elements stay depends on where they lie in the last two axes."""
    rank = len(ties.shape(op.inputs[0]))
    tie_others(ties, op.inputs[0], op.outputs[0], {rank - 1, rank - 2})


def trilu(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, k = given(tensors, 0), optional(tensors, 1)
    diagonal = 0 if k is None else int(k)
    return (x.triu(diagonal) if op.integer("upper", 1) else x.tril(diagonal),)


def compress(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, wanted = given(tensors, 0), given(tensors, 1).nonzero().reshape(-1)
    if "axis" not in op.attrs:
        return (x.reshape(-1)[wanted],)
    return (x.index_select(op.integer("axis", 0), wanted),)


def tie_reverse(op: Op, ties: Ties) -> None:
    mixed = {op.integer("batch_axis", 1), op.integer("time_axis", 0)}
    tie_others(ties, op.inputs[0], op.outputs[0], mixed)


def reverse_sequence(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, lengths = given(tensors, 0), given(tensors, 1)
    batch, time = op.integer("batch_axis", 1), op.integer("time_axis", 0)
    moved = x.movedim((batch, time), (0, 1))
    step = torch.arange(moved.shape[1], device=x.device)[None]
    order = torch.where(step < lengths[:, None], lengths[:, None] - 1 - step, step)
    row = torch.arange(len(moved), device=x.device)[:, None]
    return (moved[row, order].movedim((0, 1), (batch, time)),)


def det(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    return (torch.linalg.det(given(tensors, 0)),)


RULES = {
    "GatherElements": Rule(tie=say_nothing, compute=gather_elements),
    "GatherND": Rule(tie=say_nothing, compute=gather_nd),
    "ScatterElements": Rule(tie=say_nothing, compute=scatter_elements),
    "ScatterND": Rule(tie=say_nothing, compute=scatter_nd),
    "OneHot": Rule(tie=say_nothing, compute=one_hot),
    "NonZero": Rule(tie=say_nothing, compute=non_zero),
    "Range": Rule(tie=say_nothing, compute=range_),
    "EyeLike": Rule(tie=say_nothing, compute=eye_like),
    "Trilu": Rule(tie=tie_trilu, compute=trilu),
    "Compress": Rule(tie=say_nothing, compute=compress),
    "ReverseSequence": Rule(tie=tie_reverse, compute=reverse_sequence),
    "Det": Rule(tie=say_nothing, compute=det),
}
