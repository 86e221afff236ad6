"""Forms whose further inputs are sizes and indices, and those of recurrent operators."""

from collections.abc import Sequence

import numpy as np

from tests.fuzz.forms import (
    Array,
    Call,
    Draw,
    Form,
    _channel_wise,
    _last_wise,
    alone,
    along,
    along_keeping,
    bounded,
    chosen,
    convolved,
    convolved_back,
    gemm,
    ints,
    joined,
    multiplied,
    multiplied_from_the_left,
    permuted,
    pooled,
    reduced,
    reduced_by_input,
    sized,
    some_axes,
    summed_over,
    three,
    together,
    with_constant,
)


def reshaped(d: Draw) -> Call | None:
    """Flatten, split an axis in two, or merge two neighbours."""
    shape = list(d.x.shape)
    kind = int(d.rng.integers(3))
    if d.rank < 2 or (kind == 2 and d.rank < 3):
        return None
    if kind == 0:
        return Call([d.x.name, ints(0, -1)])
    axis = int(d.rng.integers(1, d.rank - (kind == 2)))
    kept = [0] * axis
    if kind == 1:
        factors = [one for one in (2, 3, 4) if shape[axis] % one == 0 and shape[axis] > one]
        if not factors:
            return None
        factor = int(d.rng.choice(factors))
        pair = [factor, shape[axis] // factor] if d.rng.random() < 0.5 else [shape[axis] // factor, factor]
        return Call([d.x.name, ints(*kept, *pair, *shape[axis + 1 :])])
    return Call([d.x.name, ints(*kept, shape[axis] * shape[axis + 1], *shape[axis + 2 :])])


def at_axes(d: Draw) -> Call:
    return Call([d.x.name, ints(*some_axes(d))])


def at_axes_attribute(d: Draw) -> Call:
    return Call([d.x.name], {"axes": list(some_axes(d))})


def repeated(d: Draw) -> Call:
    counts = np.ones(d.rank, dtype=np.int64)
    counts[int(d.rng.integers(1, d.rank)) if d.rank > 1 else 0] = 2
    return Call([d.x.name, counts])


def padded(d: Draw) -> Call:
    pads = np.zeros(2 * d.rank, dtype=np.int64)
    axis = int(d.rng.integers(1, d.rank)) if d.rank > 1 else 0
    pads[[axis, axis + d.rank]] = d.rng.integers(0, 3, 2)
    return Call([d.x.name, pads, *([np.array(0.5, np.float32)] if d.rng.random() < 0.3 else [])])


def sliced(d: Draw) -> Call:
    axis = int(d.rng.integers(1, d.rank)) if d.rank > 1 else 0
    size = d.x.shape[axis]
    start = int(d.rng.integers(0, max(size // 2, 1)))
    end = int(d.rng.choice([size, size - 1, np.iinfo(np.int64).max]))
    step = [ints(int(d.rng.choice([1, 2])))] if d.rng.random() < 0.3 else []
    return Call([d.x.name, ints(start), ints(end), ints(axis), *step])


def taken(d: Draw) -> Call:
    axis = int(d.rng.integers(1, d.rank)) if d.rank > 1 else 0
    size = d.x.shape[axis]
    index = ints(*d.rng.permutation(size)[: max(size - 1, 1)]) if d.rng.random() < 0.7 else np.array(size - 1)
    return Call([d.x.name, index], {"axis": axis})


def looked_up(d: Draw) -> Call:
    """The main operand is the index into a table of weights."""
    return Call([d.weight(int(np.abs(d.x.array).max(initial=0)) + 1, d.width()), d.x.name], {"axis": 0})


def split_by_input(d: Draw) -> Call | None:
    axis = int(d.rng.integers(1, d.rank)) if d.rank > 1 else 0
    size = d.x.shape[axis]
    if size < 2:
        return None
    first = int(d.rng.integers(1, size)) if d.rng.random() < 0.5 else size // 2
    return Call([d.x.name, ints(first, size - first)], {"axis": axis}, outputs=2)


def split_equally(d: Draw) -> Call:
    return Call([d.x.name], {"axis": int(d.rng.integers(1, max(d.rank, 2))), "num_outputs": 2}, outputs=2)


def split_in_two(d: Draw) -> Call:
    return Call([d.x.name], {"axis": int(d.rng.integers(1, max(d.rank, 2)))}, outputs=2)


def resized(d: Draw) -> Call | None:
    if d.rank < 3:
        return None
    return Call([d.x.name, "", np.array([1, 1, *(2,) * (d.rank - 2)], np.float32)], {"mode": "nearest"})


def in_blocks(d: Draw) -> Call:
    return Call([d.x.name], {"blocksize": 2})


def in_blocks_by_column(d: Draw) -> Call:
    return Call([d.x.name], {"blocksize": 2, "mode": "CRD"})


def cast(d: Draw) -> Call:
    return Call([d.x.name], {"to": 1})


def like(d: Draw) -> Call:
    return Call([d.x.name, np.array(0, np.float32)])


def in_groups(d: Draw) -> Call:
    """Up to opset 20 scale and bias are one for each group."""
    size = 2 if d.rng.random() < 0.5 else d.channels
    return Call([d.x.name, d.positive(size), d.positive(size)], {"num_groups": 2})


def leading(d: Draw) -> Call:
    return Call([d.x.name, ints(2)], {"axis": d.axis()}, outputs=2)


def at_index(d: Draw) -> Call:
    return Call([d.x.name, np.array(d.axis())])


def scaled_to_integers(d: Draw) -> Call:
    zero = np.array(128 if d.x.array.dtype == np.float32 else 0, np.uint8)
    return Call([d.x.name, np.array(0.05, np.float32), zero])


def _recurrent(gates: int) -> Form:
    def form(d: Draw) -> Call | None:
        if d.rank != 3:
            return None
        hidden, both = d.width(), d.rng.random() < 0.4
        ways = 2 if both else 1
        w, r = d.weight(ways, gates * hidden, d.x.shape[-1]), d.weight(ways, gates * hidden, hidden)
        attrs = {"hidden_size": hidden, "direction": "bidirectional" if both else "forward"}
        bias = [d.weight(ways, 2 * gates * hidden)] if d.rng.random() < 0.7 else []
        return Call([d.x.name, w, r, *bias], attrs, outputs=int(d.rng.choice([1, 2])))

    form.__name__ = f"recurrent_{gates}"
    return form


FORMS: Sequence[Form] = (
    *(alone, along, along_keeping, together, three, joined, with_constant, bounded, chosen),
    *(convolved, convolved_back, pooled, gemm, multiplied, multiplied_from_the_left, summed_over),
    *(_channel_wise(1), _channel_wise(2), _channel_wise(4), _last_wise(1), _last_wise(2), in_groups, sized),
    *(reduced, reduced_by_input, permuted, reshaped, at_axes, at_axes_attribute, repeated, padded, sliced, taken),
    *(looked_up, split_by_input, split_equally, split_in_two, resized, in_blocks, in_blocks_by_column, cast, like),
    *(leading, at_index, scaled_to_integers, _recurrent(1), _recurrent(3), _recurrent(4)),
)
# Forms that bring weights: a graph draws every second operator from those that take one.
WEIGHING = ("convolved", "convolved_back", "gemm", "multiplied", "summed_over", "recurrent")

LISTED = (at_axes, repeated, padded, reduced_by_input)  # whose second input is a list
PLAIN = ("alone", "together", "three")  # of an operator that also takes others these are drawn seldom

__all__ = ["FORMS", "LISTED", "PLAIN", "WEIGHING", "Array", "at_index"]
