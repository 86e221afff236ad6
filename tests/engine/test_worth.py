"""Errors count as far as somebody reads them: not where an output goes, and more where the weights on it are large."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine import nets
from tests.engine.dissect import Dissected, dissect
from tests.engine.test_forming import chains, lost, stretch
from tests.engine.test_reconstruct import rebuilt
from worker.engine.execute import Executor
from worker.engine.refit import walk as module
from worker.engine.refit.forming import Descent
from worker.engine.refit.readings import readings
from worker.engine.refit.worth import worth


@pytest.fixture
def mlp(tmp_path: Path) -> Dissected:
    return dissect(nets.mlp(), tmp_path, samples=400)


def test_outputs_of_the_model_are_worth_the_same(mlp: Dissected) -> None:
    last = readings(mlp.graph, mlp.analysis.ties.seen, mlp.analysis.groups)[-1]
    assert mlp.graph.outputs[0].name == last.tail.end
    assert np.all(1.0 == worth(mlp.graph, last, mlp.analysis.groups, {}))


def test_what_goes_is_worth_nothing_and_the_others_what_their_readers_make_of_them(tmp_path: Path) -> None:
    """A stream that several write and read: each reader's weights together count as much as another's."""
    dissected = dissect(nets.residual(), tmp_path)
    group = next(one for one in dissected.analysis.groups if len(one.producers) > 1)
    first = next(
        one for one in readings(dissected.graph, dissected.analysis.ties.seen, dissected.analysis.groups)
        if (one.tail.end, 1) in group.sites
    )  # fmt: skip
    later = [one for one in group.consumers if one.op.index > first.op.index]
    assert later
    stays = np.arange(group.units) > 1
    expected = np.zeros(group.units)
    for one in later:
        weight = np.moveaxis(dissected.graph.constants[one.weight].astype(np.float64), one.weight_axis, 0)
        squares = np.square(weight.reshape(group.units, -1)).sum(axis=1) * stays
        expected += squares / squares.sum()
    expected *= stays.sum() / expected.sum()
    found = worth(dissected.graph, first, dissected.analysis.groups, {group.name: (0, 1)})
    index = group.sites[first.tail.end, 1].ravel()
    np.testing.assert_allclose(found.ravel()[index], expected)
    assert np.ptp(expected[2:]) > 0
    assert found.shape == first.linear.spread


def test_it_decides_how_units_are_formed(mlp: Dissected, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"fc1": tuple(range(8)), "fc2": tuple(range(6))}
    plain = mlp.graph.constants["fc1.weight"]
    with_it = rebuilt(mlp, gone).changed.get("fc1.weight", plain)
    monkeypatch.setattr(module, "worth", lambda _, reading, *__: np.ones(reading.linear.spread))
    assert not np.array_equal(with_it, rebuilt(mlp, gone).changed.get("fc1.weight", plain))


def test_a_descent_serves_the_outputs_that_are_worth_something(mlp: Dissected) -> None:
    """One output alone comes closer to what the teacher gives than together with all others."""
    chain = next(iter(chains(mlp).values()))
    seen = stretch(mlp, chain)
    alone = torch.zeros(chain.reading.linear.spread)
    alone[0, 0] = 1.0
    errors = []
    for counts in (alone, torch.ones_like(alone)):
        descent = Descent(chain, Executor(mlp.graph), lost(mlp, {"fc1": tuple(range(8))}), counts)
        descent.run([seen], [seen], torch.Generator().manual_seed(0))
        descent.worth = alone
        errors.append(descent.error([seen]))
    assert errors[0] < 0.9 * errors[1]
