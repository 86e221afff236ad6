"""Parameters, MACs and live bytes against numbers worked out by hand."""

from pathlib import Path

from tests.engine.dissect import Dissected, dissect
from tests.engine.nets import cnn, mlp, mobile, residual
from worker.engine import cost


def whole(dissected: Dissected) -> cost.Cost:
    return cost.cost(dissected.graph, cost.shapes_after(dissected.analysis.ties.seen, {}))


def peak(dissected: Dissected) -> int:
    seen = dissected.analysis.ties.seen
    return cost.peak_activation_bytes(dissected.graph, seen, cost.shapes_after(seen, {}))


def test_an_mlp(tmp_path: Path) -> None:
    found = whole(dissect(mlp(), tmp_path))
    assert 10 * 12 + 8 * 10 + 4 * 8 == found.macs
    assert found.macs + 10 + 8 + 4 == found.parameters


def test_a_cnn_with_batch_norm(tmp_path: Path) -> None:
    found = whole(dissect(cnn(), tmp_path))
    assert 64 * 6 * 27 + 16 * 5 * 54 + 7 * 80 + 4 * 7 == found.macs
    assert (6 * 27 + 6) + 24 + (5 * 54 + 5) + (7 * 80 + 7) + (4 * 7 + 4) == found.parameters


def test_depthwise_costs_one_input_channel_per_output(tmp_path: Path) -> None:
    assert 64 * (6 * 3 + 12 * 9 + 5 * 12) + 4 * 5 == whole(dissect(mobile(), tmp_path)).macs


def test_peak_of_a_chain_is_its_largest_neighbours(tmp_path: Path) -> None:
    """x 192, c1 384 and its two successors 384 each: two of 384 at once; Flatten is a view."""
    assert 4 * (384 + 384) == peak(dissect(cnn(), tmp_path))


def test_peak_of_a_residual_counts_what_waits_for_the_sum(tmp_path: Path) -> None:
    """s (6 x 64) waits while a1r (5 x 64) becomes a2o (6 x 64)."""
    assert 4 * 64 * (6 + 6 + 6) == peak(dissect(residual(), tmp_path))


def test_pruning_lowers_the_peak(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    seen = dissected.analysis.ties.seen
    lost = cost.axes_gone(dissected.analysis.groups, {"c1": 3})
    assert 4 * (192 + 192) == cost.peak_activation_bytes(dissected.graph, seen, cost.shapes_after(seen, lost))
