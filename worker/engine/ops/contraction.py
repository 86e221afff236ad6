"""Einsum: a letter is an axis.

A letter that the output keeps is tied wherever it stands. One that is summed over is contracted: exact, since a removed
index reads as zero. Letters that a constant alone brings in are where it makes units. Silence pins a letter that stands
twice in one operand (a diagonal) and one that some operand stretches.
"""

from collections.abc import Iterator
from math import prod

import torch

from worker.engine.graph import Op
from worker.engine.ops.linear import Linear, Shapes, contraction
from worker.engine.ops.rule import NoTorchForm, Rule, ShapeOf, Tensors
from worker.engine.ties import Axis, Ties

Labels = tuple[str, ...]
BINARY = 2  # operands


def labels(op: Op, ranks: list[int]) -> tuple[list[Labels], Labels]:
    """The label of every axis of the operands and of the output. Axes under an ellipsis count from the right."""
    left, arrow, right = op.text("equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    dots = max(
        (rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True) if "..." in term),
        default=0,
    )
    if not arrow:  # letters that stand once, in the order of the alphabet
        letters = sorted(one for one in set(left) if one.isalpha() and left.count(one) == 1)
        right = ("..." if "..." in left else "") + "".join(letters)
    own = [_spread(term, rank - len(term.replace("...", ""))) for term, rank in zip(terms, ranks, strict=True)]
    return own, _spread(right, dots)


def _spread(term: str, dots: int) -> Labels:
    before, ellipsis, after = term.partition("...")
    middle = [f".{place}" for place in range(dots, 0, -1)] if ellipsis else []
    return (*before, *middle, *after)


def tie(op: Op, ties: Ties) -> None:
    operands, output = labels(op, [len(ties.shape(name)) for name in op.inputs])
    if len(output) != len(ties.shape(op.outputs[0])):
        return
    for letter in dict.fromkeys(one for term in operands for one in term):
        where = list(_places(op, operands, letter))
        slots = [slot for slot, _ in where]
        axes: list[Axis] = [(op.inputs[slot], axis) for slot, axis in where]
        made = [(op.outputs[0], output.index(letter))] if letter in output else []
        if len(set(slots)) < len(slots) or len({ties.size(axis) for axis in (*axes, *made)}) > 1:
            continue
        for axis in (*axes[1:], *made):
            ties.tie(axes[0], axis)
        ties.speak(axes[0])
        if not made:
            _contract(op, ties, where)
        elif len(where) == 1:
            ties.produce(op, op.inputs[slots[0]], where[0][1])


def _places(op: Op, operands: list[Labels], letter: str) -> Iterator[tuple[int, int]]:
    for slot, term in enumerate(operands):
        for axis, one in enumerate(term):
            if one == letter:
                yield slot, axis


def _contract(op: Op, ties: Ties, where: list[tuple[int, int]]) -> None:
    """Masked in one operand that is computed; a constant that stands against it alone can take weights over."""
    computed = [place for place in where if op.inputs[place[0]] not in ties.graph.static]
    fixed = [place for place in where if place not in computed]
    if not computed:  # an axis of a constant alone: units that nobody makes
        return
    (slot, axis), *others = computed
    if len(fixed) == 1 and not others and len(op.inputs) == 2:
        ties.consume(op, slot, axis, op.inputs[fixed[0][0]], fixed[0][1])
    else:
        ties.consume(op, slot, axis)


def macs(op: Op, shape: ShapeOf) -> int:
    """One for every combination of indices."""
    shapes = [shape(name) for name in op.inputs]
    operands, _ = labels(op, list(map(len, shapes)))
    sizes: dict[str, int] = {}
    for term, own in zip(operands, shapes, strict=True):
        for letter, size in zip(term, own, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)
    return prod(sizes.values())


def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    operands = [one for one in tensors if one is not None]
    if not all(one.is_floating_point() for one in operands):
        raise NoTorchForm
    return (torch.einsum(op.text("equation", "").replace(" ", ""), operands),)


def linear(op: Op, shapes: Shapes, constant: int) -> Linear | None:
    """A constant against one computed operand, none of them stretched."""
    if len(op.inputs) != BINARY:
        return None
    own = [shapes[name] for name in op.inputs]
    operands, output = labels(op, list(map(len, own)))
    if len(output) != len(shapes[op.outputs[0]]):
        return None
    sizes = dict(zip(output, shapes[op.outputs[0]], strict=True))
    for term, shape in zip(operands, own, strict=True):
        if any(size != sizes.setdefault(letter, size) for letter, size in zip(term, shape, strict=True)):
            return None
    names = op.inputs[1 - constant], op.inputs[constant]
    parts = operands[1 - constant], operands[constant], output
    return contraction(names, shapes, op.outputs[0], parts, 1 - constant)


RULES = {"Einsum": Rule(tie=tie, compute=compute, macs=macs, linear=linear)}
