"""What the engine knows of one operator: how it ties axes, computes, costs, and follows a cut.

A family's file fills one `Rule` for each of its operators; `worker.engine.ops.RULES` is the table of all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from worker.engine.graph import Array, Op
from worker.engine.ops.linear import Linear, Shapes
from worker.engine.primitives import OverKept
from worker.engine.ties import Axis, Points, Ties

Tensors = Sequence[torch.Tensor | None]
Shape = tuple[int, ...]
ShapeOf = Callable[[str], Shape]


class NoTorchForm(Exception):
    """This combination of attributes has no torch form here; onnxruntime computes the node instead."""


@dataclass(frozen=True)
class Follow:
    """What else changes in a node when axes around it are cut. An attribute that becomes None is removed."""

    attrs: Mapping[str, int | tuple[int, ...] | None] = field(default_factory=dict)
    constants: Mapping[int, Array] = field(default_factory=dict)  # by input slot


@dataclass(frozen=True, eq=False)
class Cut:
    """What a cut leaves: called with a tensor's name it gives the shape after; `gone` are the indices that go."""

    shape: ShapeOf
    gone: Mapping[Axis, Points]

    def __call__(self, name: str) -> Shape:
        return self.shape(name)

    def before(self, axis: Axis, index: int) -> int:
        """How many of the first `index` indices of an axis stay."""
        return index - int(np.searchsorted(self.gone.get(axis, np.empty(0, np.int64)), index))


Tie = Callable[[Op, Ties], None]
Compute = Callable[[Op, Tensors], tuple[torch.Tensor, ...]]
Macs = Callable[[Op, ShapeOf], int]
FollowCut = Callable[[Op, Ties, Cut], Follow]
Range = tuple[float, float] | None
RangeOf = Callable[[Op, Mapping[str, Array]], Range]
LinearOf = Callable[[Op, Shapes, int], Linear | None]


def no_macs(op: Op, shape: ShapeOf) -> int:
    return 0


def nothing_follows(op: Op, ties: Ties, after: Cut) -> Follow:
    return Follow()


def no_range(op: Op, constants: Mapping[str, Array]) -> Range:
    return None


def not_linear(op: Op, shapes: Shapes, constant: int) -> Linear | None:
    return None


@dataclass(frozen=True)
class Rule:
    """`linear` is the operator as a linear map, where its weights, the constant at an input slot, can be fitted.
    `follow` gets the ties (shapes before) and the shapes after the cut. `range` is the finite range of an output;
    `passes` says that values keep the range they came with (pools, reshapes)."""

    tie: Tie
    compute: Compute
    macs: Macs = no_macs
    follow: FollowCut = nothing_follows
    range: RangeOf = no_range
    passes: bool = False
    linear: LinearOf = not_linear
    alias: bool = False  # the output is a view of the input's memory
    in_place: bool = False  # an element of the first output needs no other element of an input of the same shape
    over_kept: OverKept | None = None  # for statistics over units: the same at full width, over those that stay


def given(tensors: Tensors, slot: int) -> torch.Tensor:
    """The tensor at a slot that the operator requires."""
    tensor = tensors[slot]
    assert tensor is not None, f"required input {slot} is absent"
    return tensor


def optional(tensors: Tensors, slot: int) -> torch.Tensor | None:
    return tensors[slot] if slot < len(tensors) else None
