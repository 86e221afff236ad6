"""Operators as linear maps: features times matrix plus bias is what the operator computes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.engine.dissect import dissect, run
from tests.engine.nets import Node, model
from worker.engine.ops import RULES
from worker.engine.ops.linear import Linear

Case = tuple[str, dict[str, object], tuple[int, ...], tuple[int, ...], int]  # operator, attributes, input, weight, bias

CASES: dict[str, Case] = {
    "strided and padded": ("Conv", {"strides": [2, 1], "pads": [1, 0, 2, 1]}, (6, 9, 8), (5, 6, 3, 2), 5),
    "dilated": ("Conv", {"dilations": [2, 1]}, (3, 9, 8), (5, 3, 3, 3), 5),
    "grouped": ("Conv", {"group": 2, "pads": [1, 1, 1, 1]}, (6, 5, 5), (4, 3, 3, 3), 4),
    "depthwise": ("Conv", {"group": 3, "pads": [1, 1, 1, 1]}, (3, 5, 5), (6, 1, 3, 3), 6),
    "same": ("Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (3, 7, 6), (4, 3, 3, 3), 4),
    "one dimension": ("Conv", {"pads": [2, 0]}, (3, 9), (4, 3, 3), 4),
    "three dimensions": ("Conv", {}, (2, 4, 5, 4), (4, 2, 2, 3, 2), 4),
    "transposed": ("ConvTranspose", {"strides": [2, 3], "pads": [1, 0, 0, 1]}, (4, 4, 3), (4, 5, 3, 3), 5),
    "transposed, grouped": (
        "ConvTranspose",
        {"group": 2, "strides": [2, 2], "output_padding": [1, 1], "dilations": [2, 1]},
        (4, 4, 3),
        (4, 3, 3, 3),
        6,
    ),
    "transposed, sized": ("ConvTranspose", {"strides": [2, 2], "output_shape": [9, 8]}, (2, 4, 4), (2, 3, 3, 3), 3),
    "gemm": ("Gemm", {}, (7,), (7, 4), 4),
    "gemm turned and scaled": ("Gemm", {"transB": 1, "alpha": 0.5, "beta": 2.0}, (7,), (4, 7), 4),
    "matmul of sequences": ("MatMul", {}, (3, 2, 7), (7, 4), 0),
}


def single(case: Case) -> onnx.ModelProto:
    key, attrs, x, w, bias = case
    inputs = ["x", "w", *(["b"] if bias else [])]
    weights: dict[str, tuple[int, ...]] = {"w": w, **({"b": (bias,)} if bias else {})}
    return model([Node(key, inputs, "y", attrs)], weights, {"x": ["N", *x]}, ["y"])


def pieces(case: Case, folder: Path) -> tuple[Linear, Mapping[str, np.ndarray], torch.Tensor, torch.Tensor]:
    dissected = dissect(single(case), folder, samples=4)
    op = dissected.graph.ops[0]
    linear = RULES[op.key].linear(op, dissected.analysis.ties.seen.shapes, 1)
    assert linear is not None
    y = torch.from_numpy(run(dissected.loaded.proto, dissected.feeds)[0])
    return linear, dissected.graph.constants, torch.from_numpy(dissected.feeds["x"]), y


def apart(linear: Linear, constants: Mapping[str, np.ndarray], x: torch.Tensor, y: torch.Tensor, every: int) -> float:
    """The largest difference between the operator's results and features times matrix plus bias."""
    count, each = linear.places(tuple(x.shape))
    spots = torch.arange(count)[::every] if every > 1 else None
    features = linear.gather(x, spots)
    assert (linear.blocks, len(range(0, count, every)) * each, linear.features) == tuple(features.shape)
    found = features @ linear.matrix(torch.tensor(constants["w"]))
    if linear.bias:
        own = torch.tensor(constants["b"]).reshape(linear.blocks, 1, linear.outputs)
        found = found + linear.bias_scale * own
    return float((found - linear.results(y, spots)).abs().max())


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_features_times_matrix_is_what_the_operator_computes(name: str, every: int, tmp_path: Path) -> None:
    linear, constants, x, y = pieces(CASES[name], tmp_path)
    assert apart(linear, constants, x, y, every) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_the_matrix_becomes_the_weight_again(name: str, tmp_path: Path) -> None:
    linear, constants, _, _ = pieces(CASES[name], tmp_path)
    weight = torch.tensor(constants["w"])
    np.testing.assert_allclose(linear.array(linear.matrix(weight)), constants["w"], rtol=1e-6)


@pytest.mark.parametrize("name", ["dilated", "transposed", "grouped"])
def test_a_turned_kernel_is_noticed(name: str, tmp_path: Path) -> None:
    linear, constants, x, y = pieces(CASES[name], tmp_path)
    turned = {**constants, "w": constants["w"][..., ::-1].copy()}
    assert apart(linear, turned, x, y, 1) > 1e-2


@pytest.mark.parametrize(("name", "axis"), [("strided and padded", 1), ("transposed", 0), ("gemm", 0), ("grouped", 1)])
def test_a_unit_owns_the_features_that_vanish_with_it(name: str, axis: int, tmp_path: Path) -> None:
    linear, constants, _, _ = pieces(CASES[name], tmp_path)
    weight = constants["w"].copy()
    np.moveaxis(weight, axis, 0)[1] = 0.0
    lost = linear.matrix(torch.from_numpy(constants["w"] - weight)).abs().sum(dim=(0, 2)).nonzero().ravel()
    units = np.arange(weight.shape[axis])[:, None]
    assert linear.rows_of(axis, units)[1].tolist() == lost.tolist()


def test_what_is_no_such_map_says_so(tmp_path: Path) -> None:
    turned = model([Node("Gemm", ["x", "w"], "y", {"alpha": 0.0})], {"w": (5, 4)}, {"x": [7, 5]}, ["y"])
    dissected = dissect(turned, tmp_path)
    op = dissected.graph.ops[0]
    assert RULES[op.key].linear(op, dissected.analysis.ties.seen.shapes, 1) is None
