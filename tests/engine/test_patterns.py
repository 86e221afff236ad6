"""Patterns of zeros: n of every m, blocks, and the shares of rows, layers and all layers, against loops."""

import numpy as np
import pytest

from schemas.criteria.weights import Blocks, NOfM
from worker.engine.patterns import Taking, mark

RNG = np.random.default_rng(0)
SCORES = {"a": RNG.random((6, 11)), "b": 0.5 + RNG.random((4, 8))}


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 5), (1, 2)])
def test_n_of_every_m_in_a_row_stay_and_they_are_the_largest(n: int, m: int) -> None:
    marks = mark(SCORES, Taking(NOfM(n=n, m=m), "layer", None, None))
    for name, scores in SCORES.items():
        for row, gone in zip(scores, marks[name], strict=True):
            for start in range(0, len(row), m):
                part, marked = row[start : start + m], gone[start : start + m]
                if len(part) < m:
                    assert not marked.any()
                else:
                    assert sorted(np.argsort(part)[: m - n]) == np.flatnonzero(marked).tolist()


def test_blocks_go_whole_the_ones_with_the_lowest_mean_first() -> None:
    marks = mark(SCORES, Taking(Blocks(rows=4, cols=3), "layer", 0.5, None))
    for name, scores in SCORES.items():
        starts = [(i, j) for i in range(0, scores.shape[0], 4) for j in range(0, scores.shape[1], 3)]
        means = [scores[i : i + 4, j : j + 3].mean() for i, j in starts]
        want = np.zeros(scores.shape, dtype=bool)
        for at in np.argsort(means)[: round(0.5 * len(starts))]:
            i, j = starts[at]
            want[i : i + 4, j : j + 3] = True
        assert (want == marks[name]).all()


def test_a_share_is_taken_of_every_row_of_every_layer_or_of_all_together() -> None:
    counts = {}
    for across in ("row", "layer", "global"):
        marks = mark(SCORES, Taking(None, across, 0.25, None))  # type: ignore[arg-type]
        counts[across] = {name: marked.sum(axis=1).tolist() for name, marked in marks.items()}
        for name, marked in marks.items():
            if across == "layer":
                assert SCORES[name][marked].max() < SCORES[name][~marked].min()
    assert {"a": [3] * 6, "b": [2] * 4} == counts["row"]
    assert [16, 8] == [sum(one) for one in counts["layer"].values()]
    assert 24 == sum(sum(one) for one in counts["global"].values())
    assert [16, 8] != [sum(one) for one in counts["global"].values()]


def test_equal_scores_go_in_file_order_and_exactly_as_many_as_asked() -> None:
    marks = mark({"a": np.ones((3, 4))}, Taking(None, "layer", 0.5, None))["a"]
    assert [True] * 6 + [False] * 6 == marks.ravel().tolist()


def test_a_threshold_takes_what_is_below_it_block_by_block_where_there_are_blocks() -> None:
    assert (mark(SCORES, Taking(None, "layer", None, 0.4))["a"] == (SCORES["a"] < 0.4)).all()
    blocks = mark(SCORES, Taking(Blocks(rows=6, cols=11), "layer", None, SCORES["a"].mean() + 0.01))
    assert blocks["a"].all()
    assert not mark(SCORES, Taking(Blocks(rows=6, cols=11), "layer", None, SCORES["a"].mean() - 0.01))["a"].any()
