"""Samples that find no room in front join later, and have then been through all that the others have."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine import nets
from tests.engine.dissect import Dissected, dissect
from tests.engine.test_reconstruct import steps_of
from worker.engine.execute import Executor
from worker.engine.refit import room as module
from worker.engine.refit.consumers import consumers
from worker.engine.refit.reconstruct import Material, Rebuilt, reconstruct
from worker.engine.refit.room import rooms
from worker.engine.refit.sides import Sides, Trail

BATCHES, ROWS = 6, 50


@pytest.fixture
def cnn(tmp_path: Path) -> Dissected:
    return dissect(nets.cnn(), tmp_path, samples=BATCHES * ROWS)


def walked(dissected: Dissected) -> Rebuilt:
    parts = [{name: one[at * ROWS : (at + 1) * ROWS] for name, one in dissected.feeds.items()} for at in range(BATCHES)]
    ties, groups = dissected.analysis.ties, dissected.analysis.groups
    material = Material(parts[:4], parts[4:], "cpu", 0, BATCHES * ROWS)
    found = consumers(dissected.graph, ties.seen, groups)
    return reconstruct(ties, groups, found, material, steps_of(dissected.random_half()), False)


def test_there_is_more_room_where_maps_are_smaller(cnn: Dissected, monkeypatch: pytest.MonkeyPatch) -> None:
    found = consumers(cnn.graph, cnn.analysis.ties.seen, cnn.analysis.groups)
    monkeypatch.setattr(module, "LIVE_BYTES", 1 << 20)
    some = rooms(cnn.graph, cnn.analysis.ties.seen, found)
    assert sorted(some) == some
    assert some[0] < some[-1]
    monkeypatch.setattr(module, "LIVE_BYTES", 1)
    assert {1} == set(rooms(cnn.graph, cnn.analysis.ties.seen, found))


def test_what_waits_before_an_operator_is_counted(cnn: Dissected) -> None:
    """Both models hold the first layer's input and what it gives."""
    first = consumers(cnn.graph, cnn.analysis.ties.seen, cnn.analysis.groups)[0]
    shapes = cnn.analysis.ties.seen.shapes
    each = 2 * 4 * (np.prod(shapes[first.op.inputs[0]]) + np.prod(shapes[first.op.outputs[0]]))
    assert module.LIVE_BYTES // each == rooms(cnn.graph, cnn.analysis.ties.seen, [first])[0]


def test_all_have_joined_in_the_end(cnn: Dissected, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many are on their way is seen at every reading; what they hold is what a walk from the front would."""
    ways: list[tuple[int, int]] = []
    admit = Sides.admit

    def watched(self: Sides, batches: int, taught: object, starts: object) -> None:
        admit(self, batches, taught, starts)  # type: ignore[arg-type]
        ways.append((len(self.teacher.walks), len(self.waiting)))

    monkeypatch.setattr(Sides, "admit", watched)
    everything = walked(cnn)
    assert {0} == {waiting for _, waiting in ways}
    ways.clear()
    monkeypatch.setattr("worker.engine.refit.reconstruct.rooms", lambda *_: [75, 75, 10_000, 10_000, 10_000])
    some = walked(cnn)
    assert (1, 3) == ways[0]
    assert 0 == ways[-1][1]
    assert cnn.proof(cnn.random_half(), some.changed).passed
    assert all(one.after <= one.before for one in some.refits)
    first = next(iter(everything.changed))
    assert not np.array_equal(everything.changed[first], some.changed[first])


def test_who_joins_late_holds_what_the_others_hold(cnn: Dissected) -> None:
    """The same batch twice, once from the start and once after weights have changed."""
    graph, end = cnn.graph, len(cnn.graph.ops) - 1
    feeds = {name: one[:ROWS] for name, one in cnn.feeds.items()}
    student = Executor(graph)
    sides = Sides(Trail(Executor(graph), ()), Trail(student, (), masks={}), [feeds, feeds], 1)
    sides.admit(1, (), ())
    name = next(one for one in graph.ops[-1].inputs if one in graph.constants)
    student.replace(name, 2 * graph.constants[name])
    sides.student.until(end)
    sides.admit(2, (), ())
    sides.student.until(end + 1)
    sides.teacher.until(end + 1)
    output = graph.outputs[0].name
    for trail in (sides.student, sides.teacher):
        torch.testing.assert_close(trail.value(0, output), trail.value(1, output))
    assert not torch.allclose(sides.student.value(0, output), sides.teacher.value(0, output))
