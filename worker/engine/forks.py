"""Ties become components, and forks become ties.

In: the recorder once every operator has spoken. Out: for each point the component it belongs to; and for each fork (an
axis that a Reshape takes apart into several, or puts together) the one part that carries it.

A fork stays exact with any of its parts: whole heads (the outer part) or the width of every head (the inner one). But
only one may lose indices, and operators between two forks tie their parts: a channel shuffle splits with the outer part
on the left and joins with it on the right. So parts that are tied to each other are a lane, a fork opens one lane, and
a lane is opened in all its forks. First come lanes whose parts are outermost throughout, then the widest. A lane that
is pinned anyway is passed over. Where none is left the whole is pinned.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from worker.engine.ties import Axis, Fork, Points, Ties


def components(ties: Ties) -> Points:
    """For each point the number of its component."""
    left = np.concatenate([*ties.left, np.empty(0, np.int64)])
    right = np.concatenate([*ties.right, np.empty(0, np.int64)])
    return _connected(left, right, ties.total)


def first_pins(ties: Ties, labels: Points) -> Points:
    """For each component the index of the first pin that holds it, or -1."""
    first = np.full(labels.max(initial=-1) + 1, -1, dtype=np.int64)
    for index in range(len(ties.pins) - 1, -1, -1):
        first[labels[ties.pins[index].points]] = index
    return first


def settle(ties: Ties) -> None:
    """Choose the part that carries each fork, tie it, and pin the others."""
    if not ties.forks:
        return
    lanes = _lanes(ties)
    labels = components(ties)
    held = first_pins(ties, labels) >= 0
    carried: dict[int, Axis] = {}
    for chosen in sorted(lanes, key=lambda lane: _preference(ties, lane)):
        wholes = (ties.forks[index].whole for index in chosen)
        if not carried.keys() & chosen.keys() and all(
            _free(ties, axis, labels, held) for axis in (*chosen.values(), *wholes)
        ):
            carried |= chosen
    for index, fork in enumerate(ties.forks):
        _carry(ties, fork, carried.get(index))


def _carry(ties: Ties, fork: Fork, carrier: Axis | None) -> None:
    reason = f"{fork.op.label()} splits or joins it, and another part carries the units"
    if carrier is None:
        ties.pin(fork.whole, "axis_mixed", f"{fork.op.label()} splits or joins it in parts that are fixed")
    else:
        sizes = [ties.size(part) for part in fork.parts]
        shape = [1] * len(sizes)
        place = fork.parts.index(carrier)
        shape[place] = sizes[place]
        own = np.broadcast_to(ties.points(carrier).reshape(shape), sizes)
        ties.tie_points(ties.points(fork.whole).reshape(sizes), own)
    for part in fork.parts:
        if part != carrier:
            ties.pin(part, "axis_mixed", reason)


def _preference(ties: Ties, chosen: Mapping[int, Axis]) -> tuple[bool, int]:
    outermost = all(part == ties.forks[index].parts[0] for index, part in chosen.items())
    return not outermost, -max(map(ties.size, chosen.values()))


def _free(ties: Ties, axis: Axis, labels: Points, held: npt.NDArray[np.bool_]) -> bool:
    """Whether at least two units could go there."""
    own = labels[ties.points(axis)]
    return len(np.unique(own[~held[own]])) > 1


def _lanes(ties: Ties) -> list[dict[int, Axis]]:
    """The lanes: of each, by fork, the part that it is. Parts are joined where operators tie their axes, and where
    two forks take the same axis apart in the same way."""
    starts = np.fromiter(ties.starts.values(), np.int64, len(ties.starts))
    number = {axis: place for place, axis in enumerate(ties.starts)}
    ends = [[side.flat[0] for side in pair] for pair in zip(ties.left, ties.right, strict=True) if pair[0].size]
    between = np.searchsorted(starts, np.array(ends, np.int64).reshape(-1, 2), side="right") - 1
    axes = _connected(between[:, 0], between[:, 1], len(starts))
    alike: dict[tuple[int, tuple[int, ...]], Fork] = {}
    same = []
    for fork in ties.forks:
        twin = alike.setdefault((int(axes[number[fork.whole]]), tuple(map(ties.size, fork.parts))), fork)
        same += [(number[one], number[other]) for one, other in zip(fork.parts, twin.parts, strict=True)]
    joined = np.concatenate([between, np.array(same, np.int64).reshape(-1, 2)])
    labels = _connected(joined[:, 0], joined[:, 1], len(starts))
    members: dict[int, dict[int, Axis]] = {}
    for index, fork in enumerate(ties.forks):
        for part in fork.parts:  # the outermost, where a lane is two parts of one fork
            members.setdefault(int(labels[number[part]]), {}).setdefault(index, part)
    return list(members.values())


def _connected(left: Points, right: Points, total: int) -> Points:
    matrix = coo_matrix((np.ones(len(left), np.int8), (left, right)), shape=(total, total))
    labels: Points = connected_components(matrix, directed=False)[1].astype(np.int64)
    return labels
