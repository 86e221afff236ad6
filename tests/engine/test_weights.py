"""Single weights by what they read: the inputs of layers, Wanda and SparseGPT against their definitions."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from schemas.criteria import SparseGpt, Wanda
from schemas.criteria.weights import Blocks, NOfM
from schemas.errors import EspalierError
from schemas.request import parse_options
from tests.engine.dissect import Dissected, dissect
from tests.engine.nets import Node, cnn, grouped, layer, matmul_mlp, model
from tests.engine.nets_recurrent import lstm
from worker.engine import inputs
from worker.engine.criteria.layers import LayerEvidence
from worker.engine.criteria.sparsegpt import SparseGptSolver
from worker.engine.criteria.wanda import WandaRanking
from worker.engine.execute import Executor, to_numpy
from worker.engine.inputs import LayerInputs, layer_inputs
from worker.engine.observe import Float
from worker.engine.patterns import Taking
from worker.engine.sparsify import Clues, sparsify, to_matrix


def read(dissected: Dissected, with_gram: bool = True) -> dict[str, LayerInputs]:
    executor = Executor(dissected.graph)
    layers, seen = dissected.analysis.layers, dissected.analysis.ties.seen
    halves = [{name: array[part] for name, array in dissected.feeds.items()} for part in (slice(7), slice(7, None))]
    return layer_inputs(executor, layers, seen, halves, with_gram=with_gram, seed=0)


def strided() -> onnx.ModelProto:
    """A convolution with all that moves its window, and one in two groups."""
    pads = {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}
    nodes = [
        Node("Conv", ["x", "c1.weight", "c1.bias"], "a", pads),
        Node("Relu", ["a"], "r"),
        Node("Conv", ["r", "c2.weight", "c2.bias"], "y", {"group": 2}),
    ]
    return model(nodes, {**layer("c1", 4, 3, 3, 2), **layer("c2", 6, 2, 2, 2)}, {"x": ["N", 3, 8, 8]}, ["y"])


@pytest.mark.parametrize("build", [cnn, grouped, matmul_mlp, strided])
def test_the_gram_of_a_layers_inputs_explains_its_outputs(build, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Y Y' = W (X X') W' for outputs without their bias: features are those that the weights are multiplied with."""
    dissected = dissect(build(), tmp_path)
    outputs: dict[str, np.ndarray] = {}
    Executor(dissected.graph).run(dissected.feeds, lambda name, value: outputs.update({name: to_numpy(value)}))
    found = read(dissected)
    assert {one.weight for one in dissected.analysis.layers} == set(found)
    for one in dissected.analysis.layers:
        seen = found[one.weight]
        assert seen.gram is not None
        bias = dissected.graph.constants.get(one.op.input(2), np.zeros(1))
        y = outputs[one.op.outputs[0]].astype(np.float64)
        y = y.transpose(1, 0, 2, 3).reshape(y.shape[1], -1) if y.ndim == 4 else y.T
        y = y - bias.reshape(-1, 1)
        w = np.split(to_matrix(dissected.graph.constants[one.weight].astype(np.float64), one), len(seen.gram))
        for block, part in enumerate(np.split(y, len(seen.gram))):
            np.testing.assert_allclose(w[block] @ seen.gram[block] @ w[block].T, part @ part.T, rtol=1e-4, atol=1e-4)
            moved = np.roll(w[block], 1, axis=1)  # one input late, and nothing is explained
            assert not np.allclose(moved @ seen.gram[block] @ moved.T, part @ part.T, rtol=1e-2, atol=1e-2)
        squares = np.diagonal(seen.gram, axis1=1, axis2=2)
        np.testing.assert_allclose(squares, seen.squares)
        rows = sum(len(part) for part in w)
        root_mean = np.sqrt(squares / seen.rows).repeat(rows // len(w), axis=0)
        np.testing.assert_allclose(root_mean, seen.norms(rows))
        assert y.shape[1] == seen.rows


def test_places_of_large_maps_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dissected = dissect(cnn(), tmp_path)
    every = read(dissected, with_gram=False)["c1.weight"]
    monkeypatch.setattr(inputs, "ROWS", 300)
    some = read(dissected, with_gram=False)["c1.weight"]
    assert (16 * 64, 300 // 7 * 7 + 300 // 9 * 9) == (every.rows, some.rows)
    assert some.gram is None
    ratio = some.norms(6) / every.norms(6)
    assert 0.8 < ratio.min()
    assert ratio.max() < 1.2
    assert not np.allclose(ratio, 1)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 16)) @ RNG.normal(size=(16, 16))
W = RNG.normal(size=(8, 16))
HALF = Taking(None, "layer", 0.5, None)


def evidence(weights: Float = W, x: Float = X) -> LayerEvidence:
    gram = x.T @ x
    return LayerEvidence(weights, (0,), None, LayerInputs(np.diag(gram)[None], gram[None], len(x)))


def loss(weights: Float) -> float:
    return float((((W - weights) @ X.T) ** 2).sum())


def test_wanda_multiplies_weights_by_the_size_of_what_they_read() -> None:
    scores = WandaRanking(Wanda()).weight_scores(evidence())
    for i, j in ((0, 0), (3, 11), (7, 15)):
        assert pytest.approx(abs(W[i, j]) * np.sqrt((X[:, j] ** 2).mean())) == scores[i, j]


def test_sparsegpt_loses_less_than_wanda_and_magnitude_which_lose_less_than_chance() -> None:
    solved = SparseGptSolver(SparseGpt(damping=1e-6)).solve(evidence(), HALF)
    assert W.size // 2 == (solved == 0).sum()
    order = np.argsort(np.abs(W) * np.sqrt((X**2).mean(0)), axis=1)[:, :8]
    wanda = W.copy()
    np.put_along_axis(wanda, order, 0, axis=1)
    chance = np.where(RNG.random(W.shape) < 0.5, 0, W)
    assert loss(solved) < 0.8 * loss(wanda)
    assert loss(wanda) < loss(chance)


def test_one_weight_that_goes_first_is_made_up_for_as_least_squares_would() -> None:
    weights = RNG.normal(size=(1, 4)) + 2
    weights[0, 0] = 0.01
    x = X[:, :4]
    solved = SparseGptSolver(SparseGpt(damping=1e-9)).solve(
        evidence(weights, x), Taking(NOfM(n=3, m=4), "layer", None, None)
    )
    want = np.linalg.lstsq(x[:, 1:], x @ weights[0], rcond=None)[0]
    assert 0 == solved[0, 0]
    np.testing.assert_allclose(want, solved[0, 1:], rtol=1e-6)


@pytest.mark.parametrize(("pattern", "columns"), [(NOfM(n=2, m=4), 128), (NOfM(n=1, m=5), 5), (NOfM(n=2, m=3), 4)])
def test_sparsegpt_keeps_n_of_every_m(pattern: NOfM, columns: int) -> None:
    solver = SparseGptSolver(SparseGpt(pattern=pattern, block_columns=columns))
    solved = solver.solve(evidence(), Taking(pattern, "layer", None, None))
    whole = 16 - 16 % pattern.m
    groups = solved[:, :whole].reshape(8, -1, pattern.m)
    assert ((groups != 0).sum(axis=2) == pattern.n).all()
    assert (solved[:, whole:] != 0).all()


def test_sparsegpt_takes_whole_blocks() -> None:
    pattern = Blocks(rows=4, cols=2)
    solver = SparseGptSolver(SparseGpt(pattern=pattern, block_columns=8))
    solved = solver.solve(evidence(), Taking(pattern, "layer", 0.5, None))
    zeros = (solved == 0).reshape(2, 4, 8, 2).transpose(0, 2, 1, 3).reshape(16, 8)
    assert 8 == zeros.all(axis=1).sum()
    assert 8 == (~zeros).all(axis=1).sum()


def test_damping_and_the_width_of_blocks_change_what_sparsegpt_does() -> None:
    plain = SparseGptSolver(SparseGpt()).solve(evidence(), HALF)
    damped = SparseGptSolver(SparseGpt(damping=5)).solve(evidence(), HALF)
    narrow = SparseGptSolver(SparseGpt(block_columns=4)).solve(evidence(), HALF)
    assert not np.allclose(plain, damped)
    assert [4 * 4] * 4 == (narrow == 0).sum(axis=0).reshape(4, 4).sum(axis=1).tolist()
    assert [4 * 4] * 4 != (plain == 0).sum(axis=0).reshape(4, 4).sum(axis=1).tolist()
    assert loss(plain) < loss(damped)


def test_each_group_of_a_convolution_has_inputs_of_its_own() -> None:
    two = np.concatenate([W[:4], W[4:]])
    grams = np.stack([X.T @ X, (X * np.arange(16)).T @ (X * np.arange(16))])
    both = LayerEvidence(two, (0,), None, LayerInputs(np.diagonal(grams, axis1=1, axis2=2), grams, len(X)))
    solver = SparseGptSolver(SparseGpt())
    solved = solver.solve(both, HALF)
    np.testing.assert_allclose(solved[:4], solver.solve(evidence(W[:4]), HALF))
    np.testing.assert_allclose(solved[4:], solver.solve(evidence(W[4:], X * np.arange(16)), HALF))


def request(name: str) -> dict[str, object]:
    return {"criterion": {"name": name}, "amount": {"remove_weights": 0.5}}


def test_layers_whose_inputs_cannot_be_read_off_are_passed_over(tmp_path: Path) -> None:
    dissected = dissect(lstm(), tmp_path)
    layers = dissected.analysis.layers
    done = sparsify(parse_options(request("wanda")), dissected.graph, layers, Clues(None, read(dissected)))
    recurrent = [one for one in layers if one.op.key == "LSTM"]
    assert {one.name for one in recurrent} == set(done.passed)
    assert {one.weight for one in layers if one not in recurrent} == set(done.changed)
    with pytest.raises(EspalierError, match="its inputs cannot be read off") as caught:
        sparsify(parse_options(request("sparsegpt")), dissected.graph, recurrent, Clues(None, read(dissected)))
    assert "criterion_not_applicable" == caught.value.code


def test_the_outputs_stay_closest_where_the_others_make_up(tmp_path: Path) -> None:
    """In a whole network, at half of its weights: SparseGPT, then Wanda, then chance."""
    dissected = dissect(cnn(), tmp_path, samples=200)
    clues = Clues(None, read(dissected))
    feeds = {name: torch.from_numpy(array) for name, array in dissected.feeds.items()}
    dense = to_numpy(Executor(dissected.graph).run({k: v.numpy() for k, v in feeds.items()})["y"])
    errors = []
    for name in ("sparsegpt", "wanda", "random"):
        options = request(name)
        if name == "random":
            options = {**options, "criterion": {"name": "random", "of": "weights"}}
        changed = sparsify(parse_options(options), dissected.graph, dissected.analysis.layers, clues).changed
        after = Executor(dissected.graph, "cpu", {**dissected.graph.constants, **changed}).run(dissected.feeds)["y"]
        errors.append(float(((to_numpy(after) - dense) ** 2).sum()))
    assert sorted(errors) == errors
