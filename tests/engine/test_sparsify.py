"""Unstructured magnitude: exact shares, per layer or over all layers, and thresholds."""

from pathlib import Path

import numpy as np
import pytest

from schemas.request import parse_options
from tests.engine.dissect import dissect
from tests.engine.nets import mlp
from worker.engine.graph import Array
from worker.engine.sparsify import Clues, sparsify


def zeros(options: dict[str, object], folder: Path) -> tuple[dict[str, int], dict[str, Array]]:
    dissected = dissect(mlp(), folder)
    request = parse_options(options)
    changed = sparsify(request, dissected.graph, dissected.analysis.layers, Clues()).changed
    return {name: int((array == 0).sum()) for name, array in changed.items()}, changed


def weights(amount: dict[str, object], **parameters: object) -> dict[str, object]:
    return {"criterion": {"name": "magnitude", "of": "weights", **parameters}, "amount": amount}


def test_a_share_of_every_layer(tmp_path: Path) -> None:
    found, _ = zeros(weights({"remove_weights": 0.25}), tmp_path)
    assert {"fc1.weight": 30, "fc2.weight": 20, "fc3.weight": 8} == found


def test_a_share_of_all_layers_together(tmp_path: Path) -> None:
    found, changed = zeros(weights({"remove_weights": 0.25}, across="global"), tmp_path)
    assert 58 == sum(found.values())
    largest_gone = max(
        np.abs(dissect(mlp(), tmp_path).graph.constants[name].astype(float)[array == 0]).max()
        for name, array in changed.items()
    )
    smallest_kept = min(np.abs(array.astype(float)[array != 0]).min() for array in changed.values())
    assert largest_gone <= smallest_kept
    assert {"fc1.weight": 30, "fc2.weight": 20, "fc3.weight": 8} != found


def test_the_smallest_go_and_the_rest_keep_their_values(tmp_path: Path) -> None:
    _, changed = zeros(weights({"remove_weights": 0.5}), tmp_path)
    original = dissect(mlp(), tmp_path).graph.constants
    for name, array in changed.items():
        size = np.abs(original[name].astype(float))
        assert size[array == 0].max() <= size[array != 0].min()
        np.testing.assert_array_equal(array[array != 0], original[name][array != 0])


@pytest.mark.parametrize("limit", [0.05, 0.2])
def test_a_threshold_zeroes_what_is_smaller(limit: float, tmp_path: Path) -> None:
    found, _ = zeros(weights({"threshold": True}, threshold=limit), tmp_path)
    original = dissect(mlp(), tmp_path).graph.constants
    assert {name: int((np.abs(original[name].astype(float)) < limit).sum()) for name in found} == found
