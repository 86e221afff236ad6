"""Steps in which every direction of a matrix counts the same: what is turned, how far it goes, and what is left out."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.engine.nets import Node, cnn, gemm, layer, model, save
from worker.engine.graph import freeze
from worker.engine.load import load
from worker.engine.muon import MULTIPLES, Muon, Stack, _turned, worthwhile

RATE = 0.01


def stretched(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """A matrix with axes of very different lengths."""
    random = torch.Generator().manual_seed(seed)
    u, _, v = torch.linalg.svd(torch.randn(rows, columns, generator=random), full_matrices=False)
    return u * torch.logspace(0, -1.5, min(rows, columns)) @ v


def moved(weight: torch.Tensor, stack: Stack, slope: torch.Tensor, length: float = 1.0) -> torch.Tensor:
    """One step's way."""
    weight = weight.clone().requires_grad_()
    before = weight.detach().clone()
    weight.grad = slope.clone()
    Muon([(weight, stack, length)]).step(RATE)
    return weight.detach() - before


def lengths(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(matrix)


def test_all_axes_come_out_about_equally_long() -> None:
    matrix = stretched(12, 40)
    (turned,) = _turned(matrix[None])
    assert lengths(matrix).min() < 0.05 * lengths(matrix).max()
    assert lengths(turned).min() > 0.5
    assert lengths(turned).max() < 1.3


def test_zeros_around_a_matrix_change_nothing() -> None:
    matrix = stretched(12, 40)
    wide = torch.zeros(1, 16, 64)
    wide[0, :12, :40] = matrix
    (inside,) = _turned(wide)
    assert torch.allclose(_turned(matrix[None])[0], inside[:12, :40], atol=1e-5)
    assert not inside[12:].any()


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (20, 20)])
def test_a_step_goes_against_the_slope_and_its_numbers_are_as_large_as_told(shape: tuple[int, int]) -> None:
    slope = stretched(*shape)
    way = moved(torch.zeros(shape), (1, *shape), slope, length=0.5)
    assert float((way * slope).sum()) < 0
    assert pytest.approx(0.5 * RATE, rel=0.3) == float(way.square().mean().sqrt())


def test_matrices_in_one_weight_are_turned_each_for_itself() -> None:
    """As a grouped convolution or a recurrent layer in two directions has them."""
    slopes = torch.stack([stretched(6, 20, seed=1), 100 * stretched(6, 20, seed=2)])
    both = moved(torch.zeros(2, 6, 20), (2, 6, 20), slopes)
    for at in (0, 1):
        assert torch.allclose(both[at], moved(torch.zeros(6, 20), (1, 6, 20), slopes[at]), atol=1e-6)
    as_one = moved(torch.zeros(2, 6, 20), (1, 12, 20), slopes)
    assert not torch.allclose(both, as_one, atol=1e-3)


def test_weights_of_about_a_size_do_not_mix() -> None:
    shapes = [(MULTIPLES[0] - 1, MULTIPLES[1] - 1), (MULTIPLES[0] - 3, MULTIPLES[1]), (MULTIPLES[1], 3)]
    weights = [torch.zeros(shape).requires_grad_() for shape in shapes]
    for seed, weight in enumerate(weights):
        weight.grad = stretched(*weight.shape, seed=seed)
    together = Muon([(weight, (1, *weight.shape), 1.0) for weight in weights])
    assert 1 == len(together.sizes)
    together.step(RATE)
    for weight in weights:
        assert weight.grad is not None
        alone = moved(torch.zeros(weight.shape), (1, *weight.shape), weight.grad)
        assert torch.allclose(alone, weight.detach(), atol=1e-5)


def test_the_mean_of_slopes_is_followed() -> None:
    """A slope that turns about each time moves nothing far; Adam or a mean of none would go to and fro."""
    weight, slope = torch.zeros(8, 8).requires_grad_(), stretched(8, 8)
    steps = Muon([(weight, (1, 8, 8), 1.0)])
    for _ in range(20):
        weight.grad = slope
        steps.step(RATE)
    before = weight.detach().clone()
    weight.grad = -slope
    steps.step(RATE)
    assert float(((weight.detach() - before) * slope).sum()) < 0


def worth(net: onnx.ModelProto, folder: Path, times: float = 1.0) -> dict[str, Stack]:
    graph = freeze(load(save(net, folder), {}).model)
    shapes = {name: array.shape for name, array in graph.constants.items()}
    inferred = onnx.shape_inference.infer_shapes(net)
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        shapes[value.name] = tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
    weights = {name: torch.from_numpy(np.array(graph.constants[name])) for name in graph.constants}
    return worthwhile(graph, weights, shapes.__getitem__, times)


def conv(groups: int) -> onnx.ModelProto:
    weight = np.ones((8, 8 // groups, 3, 3), np.float32)
    node = Node("Conv", ["x", "w"], "y", {"group": groups, "pads": [1, 1, 1, 1]})
    return model([node], {"w": weight}, {"x": ["N", 8, 16, 16]}, {"y": ["N", 8, 16, 16]})


@pytest.mark.parametrize(("groups", "found"), [(1, {"w": (1, 8, 72)}), (2, {"w": (2, 4, 36)}), (8, {})])
def test_a_convolution_is_as_many_matrices_as_it_has_groups_and_a_depthwise_one_none(
    groups: int, found: dict[str, Stack], tmp_path: Path
) -> None:
    assert found == worth(conv(groups), tmp_path)


def test_a_weight_that_is_read_once_for_each_sample_is_worth_it_in_large_steps_only(tmp_path: Path) -> None:
    net = model([gemm("fc", "x", "y")], layer("fc", 6, 12), {"x": ["N", 12]}, {"y": ["N", 6]})
    assert {} == worth(net, tmp_path, times=16)
    assert 1 == len(worth(net, tmp_path, times=160))


def test_of_a_network_convolutions_are_worth_it_and_what_adds_is_not(tmp_path: Path) -> None:
    found = worth(cnn(), tmp_path, times=32)
    graph = freeze(load(save(cnn(), tmp_path), {}).model)
    weights = {op.input(1) for op in graph.ops if op.key == "Conv"}
    assert weights & found.keys()
    assert all(graph.constants[name].ndim > 1 for name in found)
