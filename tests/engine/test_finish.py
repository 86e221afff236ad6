"""Steps after the cut, in whole jobs: each is measured, and the artifact is what the last one made."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from schemas.errors import EspalierError
from schemas.report import FidelityScore, Report
from schemas.request import parse_options
from tests.engine.nets import classifier, feeds_for, mlp, save
from tests.engine.test_run import as_input
from worker.engine.data import Samples
from worker.engine.finish import shared_out
from worker.engine.run import Inputs, Limits, prune

HALF = {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}}


def finished(
    folder: Path, options: dict[str, object], data: bool = True, proto: onnx.ModelProto | None = None, count: int = 100
) -> Report:
    proto = proto or classifier()
    np.savez(folder / "data.npz", **feeds_for(proto, count))
    inputs = Inputs(as_input(save(proto, folder)), {}, as_input(folder / "data.npz") if data else None, None)
    return prune(parse_options({**HALF, **options}), inputs, folder, Limits(1, 1 << 30), lambda _: None)


def test_each_step_is_measured_and_the_last_one_is_the_result(tmp_path: Path) -> None:
    report = finished(tmp_path, {"distill": {"epochs": 30, "learning_rate": 0.01, "batch": 16}, "quantize": {}})
    pruned, distilled, quantized = report.steps
    assert ["pruned", "distilled", "quantized"] == [one.step for one in report.steps]
    assert isinstance(pruned.accuracy, FidelityScore)
    assert isinstance(distilled.accuracy, FidelityScore)
    assert distilled.accuracy.relative_error < pruned.accuracy.relative_error
    assert report.after.accuracy == quantized.accuracy != distilled.accuracy
    assert (tmp_path / "artifact.onnx").stat().st_size == quantized.file_bytes == report.after.file_bytes
    assert (tmp_path / "float.onnx").stat().st_size == distilled.file_bytes
    assert report.before.flash_bytes > 2 * report.after.flash_bytes
    assert report.before.peak_ram_bytes > 3 * report.after.peak_ram_bytes
    keys = {node.op_type for node in onnx.load(tmp_path / "artifact.onnx").graph.node}
    assert "DequantizeLinear" in keys
    assert report.before.parameters > report.after.parameters == sum(one.parameters_after for one in report.layers)
    assert "quantized" in (tmp_path / "report.md").read_text()
    assert "distilled" in (tmp_path / "report.html").read_text()


def test_training_gives_back_much_of_what_a_plain_cut_costs(tmp_path: Path) -> None:
    """Large matrices that read each sample once, as the cut has left them: columns side by side."""
    options = {"compensation": "none", "distill": {"epochs": 40, "batch": 16, "seconds": 3_000}}
    pruned, distilled = finished(tmp_path, options, proto=mlp(widths=(48, 48, 10)), count=300).steps
    assert isinstance(pruned.accuracy, FidelityScore)
    assert isinstance(distilled.accuracy, FidelityScore)
    assert distilled.accuracy.relative_error < 0.55 * pruned.accuracy.relative_error


def test_without_steps_nothing_is_said_of_them(tmp_path: Path) -> None:
    assert () == finished(tmp_path, {}).steps
    assert {"artifact.onnx", "report.json", "report.html", "report.md"} < {one.name for one in tmp_path.iterdir()}
    assert not (tmp_path / "float.onnx").exists()


def test_a_distilled_model_leaves_one_file(tmp_path: Path) -> None:
    report = finished(tmp_path, {"distill": {"epochs": 1}})
    assert ["artifact.onnx"] == [one.name for one in tmp_path.glob("*.onnx") if one.name != "model.onnx"]
    assert 2 == len(report.steps)


def test_zeros_stay_zero_through_training(tmp_path: Path) -> None:
    sparse: dict[str, object] = {
        "criterion": {"name": "magnitude", "of": "weights"},
        "amount": {"remove_weights": 0.5},
    }
    dense = finished(tmp_path, sparse)
    trained = finished(tmp_path, {**sparse, "distill": {"epochs": 5, "learning_rate": 0.01}})
    assert dense.after.nonzero_parameters == trained.after.nonzero_parameters
    assert "weights set to zero" == trained.steps[0].detail
    assert dense.after.accuracy != trained.after.accuracy


def test_samples_held_back_beyond_those_that_judge_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, held = Samples({"x": np.arange(10)}), Samples({"x": np.arange(10, 20)})
    assert (fit, held) == shared_out(fit, held)
    assert (fit, fit) == shared_out(fit, None)
    monkeypatch.setattr("worker.engine.finish.MOST_HELD", 4)
    trained, kept = shared_out(fit, held)
    assert [*range(10, 14)] == kept.inputs["x"].tolist()
    assert [*range(10), *range(14, 20)] == trained.inputs["x"].tolist()


@pytest.mark.parametrize(("step", "short"), [("quantize", "int8"), ("quantize", True), ("distill", True)])
def test_a_step_may_be_asked_for_in_a_word(step: str, short: object) -> None:
    assert parse_options({step: {}}) == parse_options({step: short})
    assert parse_options({}) == parse_options({step: False})


def test_the_word_makes_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.mkdir()
    other.mkdir()
    word, whole = finished(one, {"quantize": "int8"}), finished(other, {"quantize": {}})
    assert word.provenance.artifact_sha256 == whole.provenance.artifact_sha256
    assert word.options == whole.options


@pytest.mark.parametrize(
    ("options", "said"),
    [({"quantize": "int4"}, 'give "int8", true or an object'), ({"distill": "yes"}, "give true or an object")],
)
def test_another_word_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(EspalierError) as caught:
        parse_options(options)
    assert said in caught.value.failure.detail


@pytest.mark.parametrize("step", ["distill", "quantize"])
def test_a_step_needs_samples(step: str, tmp_path: Path) -> None:
    with pytest.raises(EspalierError) as caught:
        finished(tmp_path, {step: {}}, data=False)
    assert "calibration_required" == caught.value.code
    assert step in caught.value.failure.detail
