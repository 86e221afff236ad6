"""Which weights go: the lowest scores of every row, layer or of all layers, as single weights or in a pattern.

In: for each layer a matrix of scores, the pattern, and a share or a threshold. Out: for each layer a matrix that marks
what goes. A share is taken exactly, of weights or of blocks; equal scores go in file order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from schemas.criteria.weights import Blocks, NOfM
from worker.engine.observe import Float

Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Taking:
    """How much goes: a share, or what lies below a threshold; the share is taken `across` these."""

    pattern: NOfM | Blocks | None
    across: Literal["row", "layer", "global"]
    share: float | None
    threshold: float | None


def mark(scores: Mapping[str, Float], taking: Taking) -> dict[str, Marks]:
    """What goes, by layer."""
    pattern = taking.pattern
    if isinstance(pattern, NOfM):
        return {name: n_of_m(one, pattern) for name, one in scores.items()}
    if isinstance(pattern, Blocks):
        marked = _lowest({name: block_means(one, pattern) for name, one in scores.items()}, taking)
        return {name: spread(one, pattern, scores[name].shape) for name, one in marked.items()}
    return _lowest(scores, taking)


def n_of_m(scores: Float, pattern: NOfM) -> Marks:
    """Of every m in a row, the m - n lowest."""
    rows, columns = scores.shape
    whole = columns - columns % pattern.m
    groups = scores[:, :whole].reshape(rows, -1, pattern.m)
    order = np.argsort(groups, axis=2, kind="stable")[:, :, : pattern.m - pattern.n]
    marked = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(marked, order, True, axis=2)
    return np.concatenate([marked.reshape(rows, whole), np.zeros((rows, columns - whole), dtype=bool)], axis=1)


def block_means(scores: Float, pattern: Blocks) -> Float:
    """The mean score of each block; those at the edges may be smaller."""
    starts = [range(0, size, step) for size, step in zip(scores.shape, (pattern.rows, pattern.cols), strict=True)]
    sums = np.add.reduceat(np.add.reduceat(scores, starts[0], axis=0), starts[1], axis=1)
    sizes = [np.diff([*start, size]) for start, size in zip(starts, scores.shape, strict=True)]
    means: Float = sums / np.outer(*sizes)
    return means


def spread(marked: Marks, pattern: Blocks, shape: tuple[int, ...]) -> Marks:
    """What is marked of blocks, marked of weights."""
    return marked.repeat(pattern.rows, axis=0).repeat(pattern.cols, axis=1)[: shape[0], : shape[1]]


def lowest(scores: Float, share: float) -> Marks:
    """Exactly that share of one matrix, the lowest first."""
    flat = scores.ravel()
    count = round(share * len(flat))
    marked = np.zeros(len(flat), dtype=bool)
    if count:
        limit = np.partition(flat, count - 1)[count - 1]
        marked[flat < limit] = True
        marked[np.flatnonzero(flat == limit)[: count - marked.sum()]] = True
    return marked.reshape(scores.shape)


def _lowest(scores: Mapping[str, Float], taking: Taking) -> dict[str, Marks]:
    if taking.share is None:
        assert taking.threshold is not None, "the request's validator asks for it"
        return {name: one < taking.threshold for name, one in scores.items()}
    if taking.across == "row":
        return {name: np.stack([lowest(row, taking.share) for row in one]) for name, one in scores.items()}
    if taking.across == "layer":
        return {name: lowest(one, taking.share) for name, one in scores.items()}
    together = lowest(np.concatenate([one.ravel() for one in scores.values()]), taking.share)
    ends = np.cumsum([one.size for one in scores.values()])
    parts = np.split(together, ends[:-1])
    return {name: part.reshape(one.shape) for (name, one), part in zip(scores.items(), parts, strict=True)}
