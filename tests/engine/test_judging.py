"""Weights that were worked out beforehand are kept only where they help; for one selection projecting is no worse than
nothing, and fitting no worse than projecting."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.engine.dissect import Dissected, dissect
from tests.engine.nets_consumers import CONSUMERS
from tests.engine.test_consumers import halved, turned
from tests.engine.test_reconstruct import NETS, halves, rebuilt, steps_of
from worker.engine.compensate import compensate
from worker.engine.refit import forming
from worker.engine.refit.consumers import consumers
from worker.engine.refit.reconstruct import Material, Rebuilt, judged

Gone = Mapping[str, tuple[int, ...]]


def judge(dissected: Dissected, gone: Gone, proposals: Mapping[str, np.ndarray], veto: bool) -> Rebuilt:
    fit, held = halves(dissected.feeds)
    ties, groups = dissected.analysis.ties, dissected.analysis.groups
    found = consumers(dissected.graph, ties.seen, groups)
    return judged(ties, groups, found, Material([fit], [held], "cpu", 0, 1), steps_of(gone), proposals, veto=veto)


def errors(done: Rebuilt) -> dict[str, float]:
    return {one.reading.op.name: one.after for one in done.refits}


def projected(dissected: Dissected, gone: Gone) -> dict[str, np.ndarray]:
    groups = dissected.analysis.groups
    taken = {group.name: steps_of(gone).get(group.name, ()) for group in groups}
    return compensate("project", "auto", dissected.graph, groups, taken, dissected.evidence)[0]


def rows(dissected: Dissected, gone: Gone) -> list[tuple[float, float, float]]:
    """For each consumer its error with nothing handed over, projected, and fitted. A fitted one is judged when its own
    turn has come: one that makes units may afterwards be formed anew for whoever reads these."""
    kept = judge(dissected, gone, projected(dissected, gone), veto=True)
    none, project = (errors(judge(dissected, gone, one, veto=False)) for one in ({}, kept.changed))
    fit = errors(rebuilt(dissected, gone))
    assert none.keys() == project.keys() == fit.keys()
    return [(none[name], project[name], fit[name]) for name in none]


@pytest.mark.parametrize("name", CONSUMERS)
def test_fitting_is_better_than_projecting_and_that_than_nothing(name: str, tmp_path: Path) -> None:
    dissected, gone = halved(name, tmp_path)
    found = rows(dissected, gone)
    assert found
    for none, project, fit in found:
        assert fit <= project <= none


@pytest.mark.parametrize("name", NETS)
def test_the_same_of_whole_networks(name: str, tmp_path: Path) -> None:
    """On the way each model goes, what lies behind meets what was made of it before."""
    dissected = dissect(NETS[name](), tmp_path, samples=200)
    gone = dissected.random_half()
    for none, project, fit in rows(dissected, gone):
        assert fit <= min(none, project)
    kept = judge(dissected, gone, projected(dissected, gone), veto=True)
    for one in kept.refits:
        assert one.after <= one.before
    assert dissected.proof(gone, kept.changed).passed


@pytest.mark.parametrize("name", CONSUMERS)
def test_what_makes_things_worse_is_not_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit itself, in the wrong direction and in the right one, of readers alone: makers of units are not judged."""
    monkeypatch.setattr(forming, "STEPS", 0)
    dissected, gone = halved(name, tmp_path)
    changed = rebuilt(dissected, gone).changed
    wrong = judge(dissected, gone, turned(dissected, changed), veto=True)
    assert {} == wrong.changed
    assert [None] * len(wrong.refits) == [one.ridge for one in wrong.refits]
    right = judge(dissected, gone, changed, veto=True)
    first = right.refits[0]
    assert first.ridge is not None
    assert first.after < 0.1 * first.before


def test_what_is_not_judged_is_what_was_proposed(tmp_path: Path) -> None:
    dissected, gone = halved("gemm_reader", tmp_path)
    wrong = turned(dissected, rebuilt(dissected, gone).changed)
    assert wrong.keys() == judge(dissected, gone, wrong, veto=False).changed.keys()
