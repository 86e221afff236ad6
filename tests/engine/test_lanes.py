"""Readings that are fitted and ordered lane by lane: exact after the cut, never worse, and true to brute force."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.engine import nets, nets_layers
from tests.engine.dissect import Dissected, dissect
from tests.engine.test_compensate import set_weight, weight
from tests.engine.test_reconstruct import apart, rebuilt
from worker.engine.refit import readings as wide
from worker.engine.refit.eliminate import ORDER_RIDGE, reader
from worker.engine.refit.lanes import lane_by_lane, mixed, same
from worker.engine.refit.normal import Normal
from worker.engine.refit.readings import Reading, readings
from worker.engine.refit.teacher import Sight
from worker.engine.refit.weights import judged_scale, matrix

NETS: dict[str, tuple[Callable[[], onnx.ModelProto], int, set[str]]] = {
    "taps": (nets.cnn, 70, {"g"}),
    "taps and places": (nets.cnn, 40, {"c2o", "g"}),
    "shortcuts": (nets.residual, 40, {"a1o", "a2o", "b1o"}),
    "groups side by side": (nets.grouped, 24, {"b", "c"}),
    "several groups": (nets.dense_block, 40, {"co"}),
    "transposed": (nets_layers.transposed, 24, {"g"}),
}


def taken_apart(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Dissected:
    make, limit, _ = NETS[name]
    monkeypatch.setattr(wide, "MOST_FEATURES", limit)
    return dissect(make(), folder, samples=200)


def found_in(dissected: Dissected) -> dict[str, Reading]:
    ties, groups = dissected.analysis.ties, dissected.analysis.groups
    return {one.op.outputs[0]: one for one in readings(dissected.graph, ties.seen, groups)}


@pytest.mark.parametrize("name", NETS)
def test_exact_and_better_than_the_plain_cut(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dissected = taken_apart(name, tmp_path, monkeypatch)
    gone = dissected.random_half()
    done = rebuilt(dissected, gone)
    assert dissected.proof(gone, done.changed).passed
    assert apart(dissected, gone, done.changed) < 0.5 * apart(dissected, gone, {})
    mixed_ones = [one for one in done.refits if one.reading.lanes is not None]
    assert NETS[name][2] == {one.reading.op.outputs[0] for one in mixed_ones}
    for one in mixed_ones:
        assert one.ridge is not None
        assert one.after < one.before


def test_what_has_no_lanes_is_fitted_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "MOST_FEATURES", 10)
    dissected = dissect(nets.mlp(), tmp_path, samples=50)
    assert {"fc1", "fc2"} & set(dissected.names())
    assert [True, False, False] == [one.wide for one in found_in(dissected).values()]


def wide_ones(dissected: Dissected) -> list[Reading]:
    return [one for one in found_in(dissected).values() if one.lanes is not None and one.units]


def mixes(reading: Reading, seed: int = 0) -> torch.Tensor:
    """Random mixings of a reading's lanes, without a constant."""
    assert reading.lanes is not None
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(reading.linear.blocks, len(reading.lanes), len(reading.lanes), generator=generator)


def apart_when_mixed(reading: Reading, mixing: torch.Tensor, expected: torch.Tensor) -> float:
    """Mixed weights on features as they are, against weights as they are on mixed features: the largest difference."""
    linear, lanes = reading.linear, reading.lanes
    assert lanes is not None
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(linear.blocks, 20, linear.features, generator=generator)
    w = torch.randn(linear.blocks, linear.features, linear.outputs, generator=generator)
    turned = torch.empty_like(features)
    turned[:, :, torch.from_numpy(lanes)] = torch.einsum("brlt,blm->brmt", features[:, :, lanes], expected)
    return float((features @ mixed(lanes, w, mixing) - turned @ w).abs().max())


@pytest.mark.parametrize("name", NETS)
def test_mixed_weights_compute_what_mixed_lanes_give(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reading in wide_ones(taken_apart(name, tmp_path, monkeypatch)):
        mixing = mixes(reading)
        assert apart_when_mixed(reading, mixing, mixing) < 1e-3
        assert apart_when_mixed(reading, mixing.transpose(1, 2), mixing) > 0.1


@pytest.mark.parametrize("name", NETS)
def test_the_mixing_that_changes_nothing_keeps_every_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dissected = taken_apart(name, tmp_path, monkeypatch)
    for reading in wide_ones(dissected):
        assert reading.lanes is not None
        w = matrix(dissected.graph, reading)
        none = same(len(w), len(reading.lanes), bool(reading.tail.bias), "cpu")
        assert torch.equal(w, mixed(reading.lanes, w, none))


def test_a_constant_counts_at_every_tap() -> None:
    lanes = np.arange(6).reshape(2, 3)
    w = torch.arange(7.0).reshape(1, 7, 1)
    mixing = same(1, 2, True, "cpu")
    mixing[0, 2] = torch.tensor([10.0, 100.0])
    assert 6 + 10 * (0 + 1 + 2) + 100 * (3 + 4 + 5) == float(mixed(lanes, w, mixing)[0, 6, 0])
    rows = lane_by_lane(lanes, torch.arange(6.0).reshape(1, 1, 6))
    assert [[0, 3], [1, 4], [2, 5]] == rows[0].tolist()


@pytest.mark.parametrize("name", NETS)
def test_costs_are_those_of_all_taps_and_outputs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elimination over the root against elimination over every tap and output by itself."""
    dissected = taken_apart(name, tmp_path, monkeypatch)
    compared = 0
    for evidence in dissected.evidence.values():
        for sight in evidence.sights:
            if not isinstance(sight, Sight) or sight.reading.lanes is None:
                continue
            w = matrix(dissected.graph, sight.reading) * judged_scale(sight.reading, sight.energy)[:, None, :]
            whole = w[:, sight.reading.lanes].flatten(2)
            if sight.normal.constant:
                whole = torch.cat([whole, torch.zeros_like(whole[:, :1])], dim=1)
            taught = Normal(sight.normal.h, sight.normal.h @ whole, sight.normal.t, sight.normal.constant)
            scale = torch.ones_like(whole[:, 0])
            plain = reader(taught, whole, torch.from_numpy(sight.rows), ORDER_RIDGE, scale)
            units = torch.arange(len(sight.rows))
            np.testing.assert_allclose(sight.reader().costs(units), plain.costs(units), rtol=1e-4)
            compared += 1
    assert compared > 0


def test_an_operator_that_gives_nothing_has_no_cost_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its share of what is judged is one by nearly nothing."""
    proto = nets.cnn()
    set_weight(proto, "c2.weight", {(): 0.0})
    set_weight(proto, "c2.bias", {(): 0.0})
    monkeypatch.setattr(wide, "MOST_FEATURES", NETS["taps and places"][1])
    dissected = dissect(proto, tmp_path, samples=50)
    assert [0.0] * 5 == [cost for _, cost in dissected.evidence["c1"].eliminated]


def test_a_copied_channel_goes_first_and_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = nets.cnn()
    for name in ("c1.weight", "c1.bias", "n1.scale", "n1.shift", "n1.mean", "n1.var"):
        set_weight(proto, name, {4: weight(proto, name)[1]})
    monkeypatch.setattr(wide, "MOST_FEATURES", NETS["taps and places"][1])
    dissected = dissect(proto, tmp_path, samples=200)
    evidence = dissected.evidence["c1"]
    assert [9] == [
        sight.reading.lanes.shape[1]
        for sight in evidence.sights
        if isinstance(sight, Sight) and sight.reading.lanes is not None
    ]
    (first, cost), (second, other), *_ = evidence.eliminated
    assert first in (1, 4)
    assert second not in (1, 4)
    assert cost < 0.5 * other
    gone = {"c1": (first,)}
    assert apart(dissected, gone, rebuilt(dissected, gone).changed) < 1e-4 * apart(dissected, gone, {})


def test_which_units_go_may_be_chosen_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dissected = taken_apart("taps and places", tmp_path, monkeypatch)
    worst = {"c1": tuple(unit for unit, _ in dissected.evidence["c1"].eliminated)[-2:]}
    done = rebuilt(dissected, worst, on_the_way=True)
    chosen = {name: tuple(sorted(step.unit for step in steps)) for name, steps in done.taken.items() if steps}
    assert 2 == len(chosen["c1"])
    assert dissected.proof(chosen, done.changed).passed
    assert apart(dissected, chosen, done.changed) < apart(dissected, worst, rebuilt(dissected, worst).changed)
