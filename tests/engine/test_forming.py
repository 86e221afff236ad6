"""Units that stay are formed anew: never for the worse, never what goes, and nothing that others make or read."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from tests.engine import nets
from tests.engine.dissect import Dissected, dissect
from tests.engine.test_reconstruct import apart, rebuilt
from worker.engine.execute import Executor
from worker.engine.refit import forming as module
from worker.engine.refit.forming import Descent, Forming, Stretch, formed, forming
from worker.engine.refit.readings import Reading, readings
from worker.engine.surgery import indices_gone
from worker.engine.ties import Axis, Points

GONE = {"fc1": (0, 1, 2, 3, 4, 5)}


def lost(dissected: Dissected, gone: Mapping[str, tuple[int, ...]]) -> dict[Axis, Points]:
    return indices_gone(dissected.analysis.groups, gone)


def chains(dissected: Dissected) -> dict[str, Forming]:
    """By the operator that reads."""
    groups = dissected.analysis.groups
    known = {group.name: group for group in groups}
    found = readings(dissected.graph, dissected.analysis.ties.seen, groups)
    return {one.op.outputs[0]: chain for one in found if (chain := forming(dissected.graph, one, known)) is not None}


def stretch(dissected: Dissected, chain: Forming) -> Stretch:
    """The model itself, before anything goes."""
    values: dict[str, torch.Tensor] = {}

    def visit(name: str, value: object) -> None:
        if isinstance(value, torch.Tensor):
            values[name] = value

    Executor(dissected.graph).run(dissected.feeds, visit)
    tail = chain.reading.tail
    return Stretch({name: values[name] for name in (*chain.starts, *tail.addends)}, values[tail.end])


@pytest.fixture
def mlp(tmp_path: Path) -> Dissected:
    return dissect(nets.mlp(), tmp_path, samples=400)


def test_the_model_that_is_left_comes_closer(mlp: Dissected, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = apart(mlp, GONE, rebuilt(mlp, GONE).changed)
    monkeypatch.setattr(module, "STEPS", 0)
    without = apart(mlp, GONE, rebuilt(mlp, GONE).changed)
    assert with_it < 0.98 * without


def swish() -> onnx.ModelProto:
    """An activation whose ways part and meet again."""
    nodes = [nets.gemm("fc1", "x", "a"), nets.Node("Sigmoid", ["a"], "s"), nets.Node("Mul", ["a", "s"], "h")]
    weights = {**nets.layer("fc1", 16, 12), **nets.layer("fc2", 5, 16)}
    return nets.model([*nodes, nets.gemm("fc2", "h", "y")], weights, {"x": ("n", 12)}, ["y"])


def fire(*, watched: bool = False) -> onnx.ModelProto:
    """What two layers make of the same few units is read side by side; with `watched` one of them by another, too."""
    nodes = [
        nets.conv("few", "x", "fo"),
        nets.Node("Relu", ["fo"], "fr"),
        nets.conv("e1", "fr", "e1o", 0),
        nets.Node("Relu", ["e1o"], "e1r"),
        nets.conv("e3", "fr", "e3o"),
        nets.Node("Relu", ["e3o"], "e3r"),
        nets.Node("Concat", ["e1r", "e3r"], "cat", {"axis": 1}),
        nets.conv("reads", "cat", "y", 0),
        *([nets.conv("looks", "e3r", "z", 0)] if watched else []),
    ]
    weights = {**nets.layer("few", 6, 3, 3, 3), **nets.layer("e1", 8, 6, 1, 1), **nets.layer("e3", 8, 6, 3, 3)}
    weights |= {**nets.layer("reads", 4, 16, 1, 1), **(nets.layer("looks", 2, 8, 1, 1) if watched else {})}
    return nets.model(nodes, weights, nets.IMAGE, ["y", "z"] if watched else ["y"])


FIRE = {"few": (0, 3), "e1": (0, 1, 2, 4), "e3": (3, 5, 6, 7)}


def test_what_is_read_side_by_side_is_formed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so are the units that only its makers read: all four layers descend, and what is left comes closer."""
    found = dissect(fire(), tmp_path, samples=200)
    (chain,) = chains(found).values()
    assert {"few", "e1", "e3"} == {*chain.groups}
    assert ("x",) == chain.starts
    assert [f"{name}.weight" for name in ("e1", "e3", "few", "reads")] == sorted(chain.weights)
    changed = rebuilt(found, FIRE).changed
    assert all(not np.array_equal(changed[name], found.graph.constants[name]) for name in chain.weights)
    with_it = apart(found, FIRE, changed)
    monkeypatch.setattr(module, "STEPS", 0)
    assert with_it < 0.95 * apart(found, FIRE, rebuilt(found, FIRE).changed)


def test_of_what_is_read_side_by_side_some_may_lose_nothing(tmp_path: Path) -> None:
    found = dissect(fire(), tmp_path, samples=200)
    changed = rebuilt(found, {"e3": FIRE["e3"]}).changed
    assert not np.array_equal(changed["e1.weight"], found.graph.constants["e1.weight"])
    assert found.proof({"e3": FIRE["e3"]}, changed).passed


def beside() -> onnx.ModelProto:
    """A reader of units and of what comes from elsewhere."""
    nodes = [
        nets.gemm("fc1", "x", "a"),
        nets.Node("Relu", ["a"], "h"),
        nets.Node("Concat", ["h", "x"], "c", {"axis": 1}),
    ]
    weights = {**nets.layer("fc1", 16, 12), **nets.layer("fc2", 5, 28)}
    return nets.model([*nodes, nets.gemm("fc2", "c", "y")], weights, {"x": ("n", 12)}, ["y"])


@pytest.mark.parametrize("build", [nets.mlp, nets.cnn, nets.residual, nets.matmul_mlp, swish, fire, beside])
def test_the_chain_computes_what_the_model_does(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    dissected = dissect(build(), tmp_path, samples=50)
    found = chains(dissected)
    assert found
    for chain in found.values():
        seen = stretch(dissected, chain)
        descent = Descent(chain, Executor(dissected.graph), {})
        torch.testing.assert_close(descent.end(seen).detach(), descent.passing(seen.end))


def test_without_some_units_it_is_the_masked_model(mlp: Dissected) -> None:
    """Weights to units that go are zeros by then; here by hand. With other weights there it is another model."""
    chain = next(iter(chains(mlp).values()))
    seen, executor = stretch(mlp, chain), Executor(mlp.graph)
    reads = next(one for one in mlp.analysis.groups if one.name == chain.groups[0]).consumers[0]
    zeroed = np.moveaxis(mlp.graph.constants[reads.weight].copy(), reads.weight_axis, 0)
    zeroed[list(GONE["fc1"])] = 0.0
    executor.replace(reads.weight, np.moveaxis(zeroed, 0, reads.weight_axis))
    whole, part = (Descent(chain, executor, gone).end(seen) for gone in ({}, lost(mlp, GONE)))
    torch.testing.assert_close(whole, part)
    assert not torch.allclose(part, Descent(chain, Executor(mlp.graph), {}).end(seen))


def test_what_goes_keeps_every_bit(mlp: Dissected) -> None:
    made = mlp.graph.constants["fc1.weight"]
    now = rebuilt(mlp, GONE).changed["fc1.weight"]
    gone = list(GONE["fc1"])
    stays = np.setdiff1d(np.arange(len(made)), gone)
    assert np.array_equal(made[gone], now[gone])
    assert not np.array_equal(made[stays], now[stays])


def test_twice_the_same(mlp: Dissected) -> None:
    first, second = (rebuilt(mlp, GONE).changed for _ in range(2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_descent_that_overshoots_is_dropped(mlp: Dissected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RATE", 30.0)
    done = rebuilt(mlp, GONE)
    assert "fc1.weight" not in done.changed
    assert all(one.after <= one.before for one in done.refits)


def test_the_best_on_the_way_stays(mlp: Dissected, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the samples want that are held back lies on the way to what the others want: not at its end."""
    monkeypatch.setattr(module, "LOOKS", 100)
    chain = next(iter(chains(mlp).values()))
    seen, executor = stretch(mlp, chain), Executor(mlp.graph)
    wanted, between = replace(seen, end=1.5 * seen.end), replace(seen, end=1.1 * seen.end)
    descent, random = Descent(chain, executor, lost(mlp, {"fc1": (0,)})), torch.Generator().manual_seed(0)
    before, after = descent.run([wanted], [between], random)
    assert descent.error([between]) == after < before < descent.error([wanted])
    for _ in descent._descending([wanted], module.STEPS, random):
        pass
    assert descent.error([between]) > before


def test_rates_follow_the_weights_of_an_output(mlp: Dissected) -> None:
    """Each output moves by a share of its own weights: one written ten times larger moves ten times as far."""
    chain = next(iter(chains(mlp).values()))
    plain, scaled = Executor(mlp.graph), Executor(mlp.graph)
    name, axis = next(iter(chain.weights.items()))
    factors = np.ones((len(mlp.graph.constants[name]), 1), np.float32)
    assert 0 == axis
    factors[3] = 10.0
    scaled.replace(name, mlp.graph.constants[name] * factors)
    sizes = [Descent(chain, one, {}).sizes[name].flatten() for one in (plain, scaled)]
    torch.testing.assert_close(sizes[1] / sizes[0], torch.from_numpy(factors).flatten())


def test_what_a_descent_gives_is_judged_on_other_samples(mlp: Dissected) -> None:
    """Held-back samples that want the opposite refuse what the others would have."""
    chain = next(iter(chains(mlp).values()))
    seen, executor = stretch(mlp, chain), Executor(mlp.graph)
    wanted = replace(seen, end=1.2 * seen.end)
    against = replace(seen, end=0.8 * seen.end)
    alike, random = torch.ones(chain.reading.linear.spread), torch.Generator().manual_seed(0)
    gone = lost(mlp, {"fc1": (0,)})
    assert formed(chain, executor, gone, [wanted], [wanted], alike, random) is not None
    assert formed(chain, executor, gone, [wanted], [against], alike, random) is None


def last(dissected: Dissected) -> Forming:
    """The chain to the model's output."""
    (output,) = (port.name for port in dissected.graph.outputs)
    return next(chain for chain in chains(dissected).values() if chain.reading.tail.end == output)


def divergence(end: torch.Tensor, taught: torch.Tensor) -> float:
    chances = [torch.log_softmax(one.detach().double(), dim=1) for one in (taught, end)]
    return float((chances[0].exp() * (chances[0] - chances[1])).sum(dim=1).mean())


def test_where_classes_are_chosen_chances_count_more_than_scores(mlp: Dissected) -> None:
    """Scores so far apart that one class is nearly certain, and too few units for all of them."""
    chain, seen, alike = last(mlp), stretch(mlp, last(mlp)), torch.ones(())
    seen = replace(seen, end=10 * (seen.end - seen.end.mean(dim=0)))
    gone = lost(mlp, {chain.groups[0]: (0, 1, 2, 3, 4)})
    found = {}
    for chooses in (False, True):
        descent = Descent(chain, Executor(mlp.graph), gone, None, chooses)
        first = descent.error([seen], descent.squares)
        descent.run([seen], [seen], torch.Generator().manual_seed(0))
        squares = descent.error([seen], descent.squares)
        found[chooses] = divergence(descent.end(seen), seen.end), squares
        made = formed(
            chain, Executor(mlp.graph), gone, [seen], [seen], alike, torch.Generator().manual_seed(0), chooses=chooses
        )
        assert made is not None
        assert pytest.approx(squares / first) == made[1]
    assert found[True][0] < 0.9 * found[False][0]
    assert found[True][1] > found[False][1]


def test_scores_do_not_run_away(mlp: Dissected, monkeypatch: pytest.MonkeyPatch) -> None:
    """All scores of a sample may rise together without any chance changing."""
    chain, seen = last(mlp), stretch(mlp, last(mlp))
    descent = Descent(chain, Executor(mlp.graph), lost(mlp, {chain.groups[0]: (0,)}), None, True)
    higher = replace(seen, end=seen.end + 5.0)
    here, there = descent.error([seen]), descent.error([higher])
    monkeypatch.setattr(module, "OF_SCORES", 0.0)
    assert there > here + 0.01
    assert pytest.approx(descent.error([seen]), abs=1e-3) == descent.error([higher])


def test_what_will_be_cut_away_teaches_nothing(mlp: Dissected) -> None:
    """The second layer makes units of its own from units of which half go: the weights on these stay zeros."""
    gone = {**GONE, "fc2": (0, 1)}
    changed = rebuilt(mlp, gone).changed
    weight, made = changed["fc2.weight"], mlp.graph.constants["fc2.weight"]
    stays = np.setdiff1d(np.arange(len(weight)), gone["fc2"])
    assert not weight[np.ix_(stays, gone["fc1"])].any()
    assert not np.array_equal(weight[stays], made[stays])


@pytest.mark.parametrize("build", [nets.mlp, nets.cnn, nets.residual, swish, fire, beside])
def test_what_the_walk_says_is_what_the_cut_model_does(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    """The error of the last layer on held-back samples is that of the model's outputs there."""
    dissected = dissect(build(), tmp_path, samples=400)
    gone = dissected.random_half()
    done = rebuilt(dissected, gone)
    last = done.refits[-1]
    assert isinstance(last.reading, Reading)
    assert dissected.graph.outputs[0].name == last.reading.tail.end
    assert last.after == pytest.approx(apart(dissected, gone, done.changed), rel=0.02)


def test_a_descent_that_uses_what_goes_is_found_out(mlp: Dissected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.refit.walk.surgery", SimpleNamespace(indices_gone=lambda *_: {}))
    gone = mlp.random_half()
    done = rebuilt(mlp, gone)
    assert done.refits[-1].after != pytest.approx(apart(mlp, gone, done.changed), rel=0.02)


def test_an_activation_that_parts_and_meets_again_is_no_hindrance(tmp_path: Path) -> None:
    found = dissect(swish(), tmp_path, samples=400)
    gone = {"fc1": tuple(range(8))}
    assert not np.array_equal(found.graph.constants["fc1.weight"], rebuilt(found, gone).changed["fc1.weight"])


def test_no_more_values_are_held_than_there_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = dissect(beside(), tmp_path, samples=50)
    assert [("x",)] == [chain.starts for chain in chains(found).values()]
    monkeypatch.setattr(module, "MOST_STARTS", 0)
    assert not chains(found)


NOT_FORMED: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "several make and read a stream": nets.residual,
    "the next layers read it, too": nets.dense_block,
    "another one looks at it": partial(fire, watched=True),
}


@pytest.mark.parametrize("name", NOT_FORMED)
def test_units_of_several_stay_as_they_are(name: str, tmp_path: Path) -> None:
    dissected = dissect(NOT_FORMED[name](), tmp_path, samples=50)
    groups = {group.name: group for group in dissected.analysis.groups}
    shared = {name for name, one in groups.items() if len(one.producers) > 1 or len(one.consumers) > 1}
    assert shared
    assert not shared & {name for chain in chains(dissected).values() for name in chain.groups}
