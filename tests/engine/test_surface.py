"""The error surface against onnxruntime: gates are scaled weights, and rows of removed units are prunings."""

import csv
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from sklearn import metrics

from schemas.parse import parse
from schemas.sweep import CompareRequest
from schemas.sweep_report import Surface, SweepReport
from tests.engine.nets import save
from tests.engine.test_run import as_input, data, job, network
from worker.engine import measure
from worker.engine.surface import Trials
from worker.engine.sweep import Inputs, Limits, sweep


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is measured, but not for long."""
    latency = measure.evaluate.latency_ms
    monkeypatch.setattr(measure.evaluate, "latency_ms", lambda model, one: latency(model, one, budget_seconds=0.0))


def compare(folder: Path, **asked: object) -> SweepReport:
    folder.mkdir(parents=True, exist_ok=True)
    options = {"criteria": [{"name": "magnitude"}], "amounts": [{"remove_units": 0.5}], "keep": "none", **asked}
    request = parse(options, CompareRequest)
    inputs = Inputs(
        as_input(save(network(), folder)),
        {},
        as_input(data(folder, network(), "calibration", 1)),
        as_input(data(folder, network(), "evaluation", 2)),
    )
    return sweep(request, inputs, folder, Limits(1, 1 << 30), lambda _: None)


def surface_of(report: SweepReport) -> Surface:
    assert report.surface is not None
    return report.surface


def judged(proto: onnx.ModelProto, folder: Path) -> tuple[float, float]:
    """Loss and score by onnxruntime and scikit-learn alone."""
    held = np.load(folder / "evaluation.npz")
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": held["x"]})
    chances = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    loss = metrics.log_loss(held["labels"], chances, labels=range(logits.shape[1]))
    return float(loss), float((logits.argmax(1) == held["labels"]).mean())


def scaled(unit: int, factor: float) -> onnx.ModelProto:
    """The network whose last layer reads one of its inputs so much weaker."""
    proto = network()
    weight = next(one for one in proto.graph.initializer if one.name == "fc2.weight")
    values = onnx.numpy_helper.to_array(weight).copy()  # (outputs, inputs)
    values[:, unit] *= factor
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "fc2.weight"))
    return proto


def test_a_gate_is_a_weaker_reader(tmp_path: Path) -> None:
    base = {"scope": {"include": ["fc1"]}}
    found = surface_of(compare(tmp_path, base=base, surface={"units": 3, "steps": 5}))
    assert (1.0, 0.75, 0.5, 0.25, 0.0) == found.gates
    assert 6 == len(found.units)  # three of magnitude, three of random
    for one in found.units:
        assert one.group == "fc1"
        expected = [judged(scaled(one.unit, gate), tmp_path) for gate in found.gates]
        assert pytest.approx([loss for loss, _ in expected], rel=1e-4) == list(one.loss)
        assert [score for _, score in expected] == list(one.score)
    assert len({one.loss[-1] for one in found.units}) > 1


def test_the_oracle_sees_a_gate_on_another_unit(tmp_path: Path) -> None:
    found = surface_of(compare(tmp_path, base={"scope": {"include": ["fc1"]}}, surface={"units": 2, "steps": 2}))
    one, other = found.units[:2]
    assert pytest.approx(judged(scaled(other.unit, 0.0), tmp_path)[0], rel=1e-4) != one.loss[-1]


def test_removed_units_are_a_pruning_without_compensation(tmp_path: Path) -> None:
    report = compare(tmp_path, surface={"units": 1, "removals": 200})
    found = surface_of(report)
    row = found.degradation[0]
    order = list(range(len(row.removed)))
    assert order == list(row.removed)  # with so many steps every number is tried
    half = job(
        tmp_path / "half", {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}}, evaluation=True
    )
    assert half.after.accuracy is not None
    removed = sum(len(group.removed) for group in half.groups)
    assert pytest.approx(half.after.accuracy.loss, rel=1e-4) == row.loss[removed]
    assert half.after.accuracy.score == row.score[removed]
    assert report.before.accuracy is not None
    assert pytest.approx(report.before.accuracy.loss, rel=1e-4) == row.loss[0]
    assert row.loss[-1] != row.loss[0]


@pytest.mark.parametrize(
    ("asked", "gates", "units", "samples"),
    [({"steps": 3}, 3, 10, 120), ({"units": 2}, 11, 4, 120), ({"samples": 30, "units": 1, "steps": 2}, 2, 2, 30)],
)
def test_every_option_of_the_surface_counts(
    tmp_path: Path, asked: dict[str, int], gates: int, units: int, samples: int
) -> None:
    found = surface_of(compare(tmp_path, surface={"removals": 4, **asked}))
    assert (gates, units, samples) == (len(found.gates), len(found.units), found.samples)
    assert 4 == len(found.degradation[0].removed)
    rows = list(csv.DictReader((tmp_path / "surface.csv").read_text().splitlines()))
    assert gates * units == len(rows)
    last = found.units[-1]
    assert (last.series, str(last.unit), str(last.loss[-1])) == (rows[-1]["series"], rows[-1]["unit"], rows[-1]["loss"])
    lines = (tmp_path / "degradation.csv").read_text().splitlines()
    assert 1 + sum(len(row.removed) for row in found.degradation) == len(lines)
    assert "Switching units off" in (tmp_path / "report.html").read_text()
    assert "Switching units off" in (tmp_path / "surface.svg").read_text()


def test_criteria_of_weights_are_left_out_with_the_reason(tmp_path: Path) -> None:
    criteria = [{"name": "magnitude", "of": "weights"}]
    found = surface_of(compare(tmp_path, criteria=criteria, amounts=[{"remove_weights": 0.5}], surface={}))
    assert ((), ()) == (found.units, found.degradation)
    assert 2 == len(found.left_out)
    assert "single weights" in found.left_out[0]
    assert "Left out" in (tmp_path / "report.html").read_text()


def test_the_network_runs_once_for_each_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    output = Trials._output
    monkeypatch.setattr(Trials, "_output", lambda self, gates: runs.append(1) or output(self, gates))
    compare(tmp_path, baseline=False, surface={"units": 2, "steps": 3, "removals": 3})
    assert 1 + 2 * 2 + 2 == len(runs)  # whole; two closed gates for each unit; two numbers of removed units
