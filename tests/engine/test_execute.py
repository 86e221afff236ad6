"""The differentiable walk: gradients equal finite differences, reach weights, and stop where there is no torch form."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from schemas.errors import EspalierError
from tests.engine.nets import IMAGE, ZOO, Node, conv, feeds_for, gemm, layer, mlp, model, residual, save
from worker.engine.execute import Executor, Walk, to_numpy
from worker.engine.graph import Graph, freeze
from worker.engine.load import load
from worker.engine.refit.sides import Sides, Trail


def graph_of(proto: onnx.ModelProto, folder: Path) -> Graph:
    return freeze(load(save(proto, folder), {}).model)


def total(executor: Executor, feeds: dict[str, np.ndarray]) -> torch.Tensor:
    outputs = executor.differentiable(feeds)
    value = next(iter(outputs.values()))
    assert isinstance(value, torch.Tensor)
    return value.square().sum()


def test_a_gradient_equals_the_finite_difference(tmp_path: Path) -> None:
    graph = graph_of(mlp("Tanh"), tmp_path)
    doubled = {name: array.astype(np.float64) for name, array in graph.constants.items()}
    executor = Executor(graph, constants=doubled)
    feeds = {name: array.astype(np.float64) for name, array in feeds_for(mlp("Tanh"), 4).items()}
    weight = executor.fixed["fc1.weight"]
    assert isinstance(weight, torch.Tensor)
    weight.requires_grad_()
    total(executor, feeds).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    step = 1e-6
    with torch.no_grad():
        weight[0, 0] += step
        above = float(total(executor, feeds).detach())
        weight[0, 0] -= 2 * step
        below = float(total(executor, feeds).detach())
    assert pytest.approx((above - below) / (2 * step), rel=1e-6) == float(weight.grad[0, 0])


@pytest.mark.parametrize("build", [mlp, residual])
def test_a_graph_runs_in_less_than_single_precision_where_that_is_asked_for(build: object, tmp_path: Path) -> None:
    net = build()  # type: ignore[operator]
    graph, feeds = graph_of(net, tmp_path), feeds_for(net, 4)
    exact, short = Executor(graph), Executor(graph, floats=torch.bfloat16)
    seen: list[torch.dtype] = []
    found = short.run(feeds, lambda _, value: seen.append(value.dtype) if isinstance(value, torch.Tensor) else None)
    for name, value in exact.run(feeds).items():
        whole, rounded = to_numpy(value), to_numpy(found[name])
        assert np.float32 == rounded.dtype
        assert 0 < np.abs(whole - rounded).max() < 0.03 * np.abs(whole).max()
    assert torch.float32 not in seen


def test_what_onnxruntime_computes_in_between_comes_back_in_less_as_well(tmp_path: Path) -> None:
    nodes = [gemm("fc1", "x", "h"), Node("Det", ["m"], "d"), Node("Add", ["h", "d"], "y")]
    nodes.insert(1, Node("Reshape", ["h", "square"], "m"))
    weights = {**layer("fc1", 1, 4), "square": np.array([-1, 1, 1], np.int64)}
    net = model(nodes, weights, {"x": ("n", 4)}, ["y"])
    short = Executor(graph_of(net, tmp_path), floats=torch.bfloat16)
    found = short.run(feeds_for(net, 1))["y"]
    assert short.in_onnxruntime()
    assert isinstance(found, torch.Tensor)
    assert torch.bfloat16 == found.dtype


def test_what_is_computed_from_a_weight_follows_it(tmp_path: Path) -> None:
    nodes = [Node("Mul", ["w", "scale"], "scaled"), Node("MatMul", ["x", "scaled"], "h"), gemm("fc", "h", "y")]
    weights = {"w": (4, 6), "scale": np.ones(6, np.float32), **layer("fc", 3, 6)}
    graph = graph_of(model(nodes, weights, {"x": ("n", 4)}, ["y"]), tmp_path)
    executor = Executor(graph)
    feeds = {"x": np.ones((2, 4), np.float32)}
    name = next(one for one in graph.constants if graph.constants[one].shape == (4, 6))
    weight = executor.fixed[name]
    assert isinstance(weight, torch.Tensor)
    before = float(total(executor, feeds))
    weight.requires_grad_()
    with torch.no_grad():
        weight.mul_(2.0)
    assert before != float(total(executor, feeds).detach())


def forked(graph: Graph, feeds: dict[str, np.ndarray], at: int) -> tuple[Trail, Trail]:
    """Two models that part at an operator, walked to the end."""
    sides = Sides(Trail(Executor(graph), ()), Trail(Executor(graph), (), masks={}), [feeds], at)
    sides.admit(1, [graph.ops[0].outputs[0]], ())
    for trail in (sides.student, sides.teacher):
        trail.until(len(graph.ops))
    return sides.teacher, sides.student


@pytest.mark.parametrize("name", ["cnn", "residual", "squeeze_excite", "sine"])
def test_a_walk_may_be_forked_anywhere(name: str, tmp_path: Path) -> None:
    """The sine is of a constant, and is computed by the first walk alone."""
    parts = [Node("Sin", ["w"], "sine"), Node("MatMul", ["x", "sine"], "h"), gemm("fc", "h", "y")]
    sine = model(parts, {"w": (4, 6), **layer("fc", 3, 6)}, {"x": ("n", 4)}, ["y"])
    proto = sine if name == "sine" else ZOO[name]()
    graph, feeds = graph_of(proto, tmp_path), feeds_for(proto, 4)
    for at in range(len(graph.ops) + 1):
        first, other = forked(graph, feeds, at)
        assert first.walks[0].live.keys() - {graph.ops[0].outputs[0]} == other.walks[0].live.keys()
        for port in graph.outputs:
            np.testing.assert_array_equal(first.value(0, port.name), other.value(0, port.name))


def test_a_fork_that_forgot_what_has_been_read_would_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Executor, "fork", lambda self, walk, _: Walk(dict(walk.live), self._reads.copy(), walk.at))
    graph, feeds = graph_of(residual(), tmp_path), feeds_for(residual(), 4)
    pairs = [forked(graph, feeds, at) for at in range(len(graph.ops))]
    assert any(other.walks[0].live.keys() - first.walks[0].live.keys() for first, other in pairs)


def test_an_operator_without_torch_form_is_named(tmp_path: Path) -> None:
    nodes = [conv("c1", "x", "a"), Node("GlobalLpPool", ["a"], "p"), Node("Flatten", ["p"], "f"), gemm("fc", "f", "y")]
    proto = model(nodes, {**layer("c1", 4, 3, 3, 3), **layer("fc", 3, 4)}, IMAGE, ["y"])
    executor = Executor(graph_of(proto, tmp_path))
    feeds = feeds_for(proto, 2)
    last, first = executor.fixed["fc.weight"], executor.fixed["c1.weight"]
    assert isinstance(last, torch.Tensor)
    assert isinstance(first, torch.Tensor)
    last.requires_grad_()
    assert total(executor, feeds).requires_grad  # no gradient has to pass through it
    first.requires_grad_()
    with pytest.raises(EspalierError) as caught:
        total(executor, feeds)
    assert "gradient_unavailable" == caught.value.code
    assert "GlobalLpPool" in caught.value.failure.detail
