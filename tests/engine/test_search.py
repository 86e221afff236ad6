"""A search ends with the smallest model that keeps the accuracy, or the most accurate that fits, or says why not."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from schemas.errors import EspalierError
from schemas.report import Report
from schemas.request import parse_options
from tests.engine.nets import balanced, cnn, feeds_for, save
from tests.engine.test_run import as_input
from worker.engine.run import Inputs, Limits, prune


def found(folder: Path, options: dict[str, object]) -> Report:
    folder.mkdir(exist_ok=True)
    proto = balanced(cnn(), "fc2.bias")
    np.savez(folder / "data.npz", **feeds_for(proto, 200))
    inputs = Inputs(as_input(save(proto, folder)), {}, as_input(folder / "data.npz"), None)
    return prune(parse_options(options), inputs, folder, Limits(1, 1 << 30), lambda _: None)


def test_the_smallest_that_keeps_the_accuracy(tmp_path: Path) -> None:
    report = found(tmp_path, {"constraints": {"max_accuracy_drop": 0.3}})
    assert report.search is not None
    points = report.search.points
    chosen = points[report.search.chosen]
    assert not chosen.broken
    assert any(point.broken for point in points)
    assert chosen.parameters == min(point.parameters for point in points if not point.broken)
    assert chosen.parameters == report.after.parameters < report.before.parameters
    assert "smallest" in report.search.because
    assert "Chosen among" in (tmp_path / "report.md").read_text()
    assert "<h2>Search</h2>" in (tmp_path / "report.html").read_text()
    assert len({one.stage for one in report.timings}) == len(report.timings)


def test_more_may_go_where_more_may_be_lost(tmp_path: Path) -> None:
    drops = (0.02, 0.15, 0.6)
    kept = [
        found(tmp_path / f"{drop}", {"constraints": {"max_accuracy_drop": drop}}).after.parameters for drop in drops
    ]
    assert all(many >= few for many, few in pairwise(kept))
    assert kept[0] > kept[-1]


def test_what_too_few_samples_could_not_tell_is_said(tmp_path: Path) -> None:
    """Fifteen samples hold back three."""
    proto = balanced(cnn(), "fc2.bias")
    session = ort.InferenceSession(proto.SerializeToString())
    feeds = feeds_for(proto, 300)
    labels = session.run(None, feeds)[0].argmax(axis=1)
    options = {"constraints": {"max_accuracy_drop": 0.02}, "compensation": "none"}
    said = {}
    for few in (15, 290):
        folder = tmp_path / str(few)
        folder.mkdir()
        np.savez(folder / "data.npz", x=feeds["x"][:few], labels=labels[:few])
        np.savez(folder / "judge.npz", x=feeds["x"], labels=labels)
        files = as_input(save(proto, folder)), {}, as_input(folder / "data.npz"), as_input(folder / "judge.npz")
        report = prune(parse_options(options), Inputs(*files), folder, Limits(1, 1 << 30), lambda _: None)
        said[few] = [one for one in report.warnings if "The search chose" in one], report.verdict.met
    (warning,), met = said[15]
    assert not met
    assert "0.00 points on 3 samples held back; on the" in warning


PROGRAM, STACK = 1_280 + 10 * 128, 512  # beside weights and activations; the network has ten operators


def test_the_most_accurate_that_fits(tmp_path: Path) -> None:
    whole = found(tmp_path / "whole", {"amount": {"keep_macs": 0.95}}).before
    flash, ram = whole.flash_bytes * 6 // 10, whole.peak_ram_bytes * 9 // 10
    report = found(tmp_path / "fits", {"target": {"flash_bytes": flash + PROGRAM, "ram_bytes": ram + STACK}})
    assert report.search is not None
    assert report.devices.target is not None
    assert (False, True) == (report.devices.target.before.fits, report.devices.target.after.fits)
    assert 0.8 * flash < report.after.flash_bytes <= flash
    assert 1 == len(report.search.points)


def test_eight_bits_fit_where_floats_do_not(tmp_path: Path) -> None:
    whole = found(tmp_path / "whole", {"amount": {"keep_macs": 0.95}}).before
    flash, ram = whole.flash_bytes * 6 // 10 + PROGRAM, whole.peak_ram_bytes + STACK
    target = {"target": {"flash_bytes": flash, "ram_bytes": ram}}
    floats, eight = found(tmp_path / "a", target), found(tmp_path / "b", {**target, "quantize": {}})
    assert eight.devices.target is not None
    assert eight.devices.target.after.fits
    assert floats.after.parameters < eight.before.parameters
    assert floats.after.macs < eight.after.macs


SLOW = {"flash_bytes": 1_000_000, "ram_bytes": 1_000_000, "clock_hz": 1_000_000, "macs_per_cycle": 0.1}


def test_with_a_target_a_latency_is_the_target_s(tmp_path: Path) -> None:
    whole = found(tmp_path / "whole", {"amount": {"keep_macs": 0.95}}).before
    there = 1000 * whole.macs / (0.1 * 1_000_000)
    report = found(tmp_path / "fits", {"target": SLOW, "constraints": {"max_latency_ms": 0.7 * there}})
    assert report.search is not None
    assert report.verdict.met
    (point,) = report.search.points
    assert point.target_ms is not None
    assert 0.5 * there < point.target_ms <= 0.7 * there
    assert report.after.macs <= 0.7 * whole.macs
    assert "time on custom, estimated" in (tmp_path / "fits" / "report.md").read_text()


def test_eight_bits_are_timed_by_their_own_rate(tmp_path: Path) -> None:
    whole = found(tmp_path / "whole", {"amount": {"keep_macs": 0.95}}).before
    limit = {"target": "rp2040", "constraints": {"max_latency_ms": 1000 * whole.macs / (0.05 * 133e6)}}
    floats, eight = found(tmp_path / "a", limit), found(tmp_path / "b", {**limit, "quantize": "int8"})
    assert floats.after.macs < eight.after.macs == whole.macs
    assert floats.verdict.met
    assert eight.verdict.met


def test_a_verdict_on_latency_says_whose_it_is(tmp_path: Path) -> None:
    given = {"amount": {"keep_macs": 0.9}, "constraints": {"max_latency_ms": 1e-6}}
    (there,) = found(tmp_path / "a", {**given, "target": "rp2040"}).verdict.broken
    (here,) = found(tmp_path / "b", given).verdict.broken
    assert ("estimated for rp2040" in there, "measured" in here) == (True, True)


@pytest.mark.parametrize(
    "options",
    [
        {"target": {"flash_bytes": 20, "ram_bytes": 10_000}},
        {"constraints": {"max_accuracy_drop": 0.001, "max_macs": 900}},
        {"constraints": {"max_latency_ms": 0.000_001}},
        {"target": "rp2040", "constraints": {"max_latency_ms": 0.000_001}},
    ],
)
def test_what_nothing_fulfils_is_said_with_the_nearest(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(EspalierError) as caught:
        found(tmp_path, options)
    assert "infeasible" == caught.value.code
    assert "the nearest" in caught.value.failure.detail or "leaves" in caught.value.failure.detail


def test_a_target_that_is_too_small_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(EspalierError) as caught:
        found(tmp_path, {"target": {"flash_bytes": PROGRAM + 20, "ram_bytes": 10_000}})
    said = "The target has 20 bytes of flash beside some 2,560 for the program, and 9,488 bytes of RAM beside some 512"
    assert said in caught.value.failure.detail


def test_a_model_that_fits_already_loses_nothing(tmp_path: Path) -> None:
    report = found(tmp_path, {"target": {"flash_bytes": 1_000_000, "ram_bytes": 1_000_000}})
    assert report.search is not None
    assert report.before.parameters == report.after.parameters
    assert "fits as it is" in report.warnings[0]


def test_where_whatever_goes_costs_too_much_nothing_goes(tmp_path: Path) -> None:
    report = found(tmp_path, {"constraints": {"max_accuracy_drop": 0.0}})
    assert report.before.parameters == report.after.parameters
    assert any("more accuracy than the constraints allow" in warning for warning in report.warnings)
    assert report.search is not None
    assert ("max_accuracy_drop",) == report.search.points[0].broken


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"amount": {"search": True}}, "constraints"),
        ({"amount": {"search": True, "keep_macs": 0.5}}, "exactly one"),
        ({"amount": {"threshold": True, "keep_macs": 0.5}}, "exactly one"),
        ({"constraints": {"max_macs": 10**400}}, "less than"),
        ({"target": {"flash_bytes": 10**400, "ram_bytes": 1}}, "less than"),
        ({"target": {"flash_bytes": 10, "ram_bytes": 1}, "constraints": {"max_latency_ms": 1}}, "states no speed"),
    ],
)
def test_a_search_for_nothing_is_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(EspalierError) as caught:
        parse_options(options)
    assert word in str(caught.value.failure.errors)


def test_an_amount_that_is_given_is_no_search() -> None:
    constraints = {"constraints": {"max_accuracy_drop": 0.1}}
    assert "keep" == parse_options({**constraints, "amount": {"keep_macs": 0.5}}).amount.kind
    assert "search" == parse_options(constraints).amount.kind
    assert "threshold" == parse_options({**constraints, "criterion": {"name": "distinctiveness"}}).amount.kind
