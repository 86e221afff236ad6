"""Whole jobs, from files to files: the report is true of the bytes, every option counts, equal jobs are equal."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from schemas.criteria import CRITERIA
from schemas.errors import EspalierError
from schemas.job import Progress
from schemas.report import ClassificationScore, FidelityScore, Report
from schemas.request import Amount, Constraints, Evaluation, Preprocess, PruneRequest, Scope, parse_options
from tests.engine.nets import ROW, Node, balanced, cnn, feeds_for, mlp, model, reshaped_at_run_time, save
from worker.engine import surgery, verify
from worker.engine.graph import freeze
from worker.engine.load import load
from worker.engine.remove import scores_known
from worker.engine.run import InputFile, Inputs, Limits, prune
from worker.engine.verify import verify_artifact

SAMPLES = 120


def as_input(path: Path) -> InputFile:
    return InputFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.name, path.stat().st_size)


def data(folder: Path, proto: onnx.ModelProto, name: str, seed: int, labels: bool = True) -> Path:
    """Samples with the model's own answers as labels: accuracy before is 1."""
    feeds = feeds_for(proto, SAMPLES, seed)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    extra = {"labels": session.run(None, feeds)[0].argmax(1)} if labels else {}
    path = folder / f"{name}.npz"
    np.savez(path, **feeds, **extra)
    return path


def history(folder: Path, proto: onnx.ModelProto) -> Path:
    """A made-up training of three epochs that ends in the model's weights."""
    rng = np.random.default_rng(3)
    final = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer if len(one.dims) > 1}
    arrays = {f"e3/{name}": array for name, array in final.items()}
    for epoch in range(3):
        arrays |= {f"e{epoch}/{name}": array + rng.normal(0, 0.3, array.shape) for name, array in final.items()}
    path = folder / "history.npz"
    np.savez(path, **arrays)
    return path


def network() -> onnx.ModelProto:
    """The small CNN with a dead channel: unit 1 of c2 never fires."""
    proto = cnn()
    bias = next(one for one in proto.graph.initializer if one.name == "c2.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[1] = -1000
    bias.CopyFrom(onnx.numpy_helper.from_array(values, "c2.bias"))
    return balanced(proto, "fc2.bias")


def job(
    folder: Path,
    options: Mapping[str, object],
    proto: onnx.ModelProto | None = None,
    *,
    calibration: bool = True,
    evaluation: bool = False,
    labels: bool = True,
    progress: list[Progress] | None = None,
) -> Report:
    proto = proto or network()
    folder.mkdir(parents=True, exist_ok=True)
    inputs = Inputs(
        as_input(save(proto, folder)),
        {},
        as_input(data(folder, proto, "calibration", 1, labels)) if calibration else None,
        as_input(data(folder, proto, "evaluation", 2, labels)) if evaluation else None,
        as_input(history(folder, proto)),
    )
    emit = progress.append if progress is not None else lambda _: None
    return prune(parse_options(options), inputs, folder, Limits(1, 1 << 30), emit)


HALF = {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}}


def test_the_report_is_true_of_the_file(tmp_path: Path) -> None:
    report = job(tmp_path, HALF, evaluation=True)
    artifact = (tmp_path / "artifact.onnx").read_bytes()
    assert hashlib.sha256(artifact).hexdigest() == report.provenance.artifact_sha256
    assert len(artifact) == report.after.file_bytes < report.before.file_bytes
    proto = onnx.ModelProto.FromString(artifact)
    assert sum(int(np.prod(one.dims)) for one in proto.graph.initializer) == report.after.parameters
    held = np.load(tmp_path / "evaluation.npz")
    found = ort.InferenceSession(artifact, providers=["CPUExecutionProvider"]).run(None, {"x": held["x"]})[0]
    assert isinstance(report.after.accuracy, ClassificationScore)
    assert pytest.approx((found.argmax(1) == held["labels"]).mean()) == report.after.accuracy.score
    assert report.before.accuracy is not None
    assert 1.0 == report.before.accuracy.score
    assert report.exactness.passed
    assert report.exactness.mask_has_effect
    assert (tmp_path / "report.json").read_text() == report.model_dump_json(by_alias=True, indent=1)
    assert report == Report.model_validate_json((tmp_path / "report.json").read_text())
    assert report.provenance.artifact_sha256 in (tmp_path / "report.html").read_text()
    assert "fc1" in (tmp_path / "report.md").read_text()
    verify_artifact(tmp_path / "artifact.onnx")


def weights(folder: Path) -> list[bytes]:
    return [one.raw_data for one in onnx.load(folder / "artifact.onnx").graph.initializer]


def chosen() -> onnx.ModelProto:
    """The MLP with a Softmax at its end."""
    proto = mlp()
    proto.graph.node[-1].output[0] = "scores"
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["scores"], ["y"], axis=-1))
    return proto


def test_the_last_layers_of_a_model_that_chooses_are_formed_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels of classes, or a Softmax, say so. Which labels they are changes nothing."""
    options = {"amount": {"remove_units": 0.5}}
    found: dict[str, tuple[list[bytes], ...]] = {}
    for way in ("as it is", "told nothing"):
        if way == "told nothing":
            monkeypatch.setattr("worker.engine.remove.scores_known", lambda *_: frozenset())
        jobs = {"labelled": (mlp(), True), "unlabelled": (mlp(), False), "softmax": (chosen(), False)}
        for name, (proto, labels) in jobs.items():
            job(tmp_path / way / name, options, proto, evaluation=True, labels=labels)
        found[way] = tuple(weights(tmp_path / way / name) for name in jobs)
    labelled, unlabelled, softmax = found["as it is"]
    assert labelled != unlabelled
    assert (unlabelled, unlabelled) == found["told nothing"][:2]
    assert softmax != found["told nothing"][2]


@pytest.mark.parametrize(
    ("chooser", "attributes", "known"),
    [("Softmax", {}, True), ("Softmax", {"axis": 0}, False), ("ArgMax", {"axis": 1}, True), ("ArgMax", {}, False)],
)
def test_a_choice_is_one_among_classes_not_among_samples(
    chooser: str, attributes: dict[str, object], known: bool, tmp_path: Path
) -> None:
    """An ArgMax that does not say along what goes along the samples."""
    nodes = [Node("Relu", ["x"], "scores"), Node(chooser, ["scores"], "y", attributes)]
    net = model(nodes, {}, ROW, {"y": ["N", 12]})
    if chooser == "ArgMax":
        kind = net.graph.output[0].type.tensor_type
        kind.elem_type = onnx.TensorProto.INT64
        dims = ["N", 1] if known else [1, 12]
        for dim, size in zip(kind.shape.dim, dims, strict=True):
            dim.Clear()
            setattr(dim, "dim_value" if isinstance(size, int) else "dim_param", size)
    graph = freeze(load(save(net, tmp_path), {}).model)
    seen = SimpleNamespace(shapes={"scores": (2, 12)})
    subject: Any = SimpleNamespace(graph=graph, analysis=SimpleNamespace(ties=SimpleNamespace(seen=seen)))
    nothing: Any = SimpleNamespace(evaluation=None, fit=None)
    assert ({"scores"} if known else set()) == scores_known(subject, nothing)


def test_of_labels_only_their_kind_counts_for_what_goes(tmp_path: Path) -> None:
    options = {"amount": {"remove_units": 0.5}}
    job(tmp_path, options, mlp(), evaluation=True)
    first = weights(tmp_path)
    held = dict(np.load(tmp_path / "evaluation.npz"))
    held["labels"] = np.ones_like(held["labels"])
    np.savez(tmp_path / "evaluation.npz", **held)
    files = [as_input(tmp_path / f"{name}.npz") for name in ("calibration", "evaluation")]
    inputs = Inputs(as_input(save(mlp(), tmp_path)), {}, *files)
    (tmp_path / "again").mkdir()
    report = prune(parse_options(options), inputs, tmp_path / "again", Limits(1, 1 << 30), lambda _: None)
    assert isinstance(report.before.accuracy, ClassificationScore)
    assert report.before.accuracy.score < 1.0
    assert first == weights(tmp_path / "again")


def test_layers_groups_and_coverage_add_up(tmp_path: Path) -> None:
    report = job(tmp_path, HALF)
    by_name = {layer.name: layer for layer in report.layers}
    assert {"c1": (6, 3), "c2": (5, 2), "fc1": (7, 3), "fc2": (4, 4)} == {
        name: (layer.units_before, layer.units_after) for name, layer in by_name.items()
    }
    norm = 4 * 6 - 4 * 3
    lost = sum(layer.parameters_before - layer.parameters_after for layer in report.layers) + norm
    assert report.before.parameters - report.after.parameters == lost
    assert sum(layer.macs_after for layer in report.layers) == report.after.macs
    assert [("fc2", "graph_output")] == [(one.where, one.reason) for one in report.refusals]
    assert 18 == report.coverage.units
    assert 3 == report.coverage.groups
    for group in report.groups:
        assert group.units_before - len(group.removed) == group.units_after


def test_equal_jobs_give_equal_bytes_and_the_seed_changes_the_split(tmp_path: Path) -> None:
    wide = {"criterion": {"name": "distinctiveness", "angle_deg": 60}}
    one, two = job(tmp_path / "a", wide), job(tmp_path / "b", wide)
    assert one.provenance.artifact_sha256 == two.provenance.artifact_sha256
    other = job(tmp_path / "c", {**wide, "seed": 7})
    assert [group.pairs for group in one.groups] != [group.pairs for group in other.groups]


def test_progress_rises_from_stage_to_stage(tmp_path: Path) -> None:
    progress: list[Progress] = []
    report = job(tmp_path, {}, progress=progress)
    fractions = [one.fraction for one in progress]
    assert sorted(fractions) == fractions
    assert 1.0 == fractions[-1]
    stages = list(dict.fromkeys(one.stage for one in progress))
    assert ["load", "data", "analyse", "observe", "select", "cut", "prove", "judge", "report"] == stages
    assert stages[:-1] == [timing.stage for timing in report.timings]


def removed(report: Report) -> dict[str, tuple[int, ...]]:
    return {group.name: group.removed for group in report.groups}


WIDE = {"criterion": {"name": "distinctiveness", "angle_deg": 60}}
BY_LOSS = ("taylor1", "taylor2", "brute_force")
KARNIN = {"name": "karnin"}
WEIGHTS = {"name": "magnitude", "of": "weights"}
CHANCE = {"name": "random", "of": "weights"}
SOME = {"remove_weights": 0.5}
SCALED = {"preprocess": {"scale": 2.0}}


def by_loss(name: str, share: float = 0.5, **more: object) -> dict[str, object]:
    return {"criterion": {"name": name, **more}, "amount": {"remove_units": share}, "share_out": "uniform"}


def by_limit(name: str, **more: object) -> dict[str, object]:
    return {"criterion": {"name": name, "threshold": 0.05, **more}}


# For every option a pair of jobs that differ in it alone; their outcomes must differ.
OPTIONS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "criterion.apoz.threshold": (
        {"criterion": {"name": "apoz", "threshold": 0.3}}, {"criterion": {"name": "apoz", "threshold": 0.9}}
    ),
    "criterion.bn_scale.threshold": (
        {"criterion": {"name": "bn_scale", "threshold": 0.7}}, {"criterion": {"name": "bn_scale", "threshold": 1.2}}
    ),
    "criterion.distinctiveness.angle_deg": (WIDE, {"criterion": {"name": "distinctiveness", "angle_deg": 5}}),
    "criterion.distinctiveness.opposite_deg": (
        {"criterion": {"name": "distinctiveness", "angle_deg": 1, "opposite_deg": 91, "centre": "mean"}},
        {"criterion": {"name": "distinctiveness", "angle_deg": 1, "opposite_deg": 179, "centre": "mean"}},
    ),
    "criterion.distinctiveness.centre": (WIDE, {"criterion": {**WIDE["criterion"], "centre": "mean"}}),
    "criterion.distinctiveness.iterate": (WIDE, {"criterion": {**WIDE["criterion"], "iterate": "closest"}}),
    "criterion.distinctiveness.on": (WIDE, {"criterion": {**WIDE["criterion"], "on": "weights"}}),
    "criterion.distinctiveness.dead_units": (
        {"criterion": {"name": "distinctiveness", "angle_deg": 1}},
        {"criterion": {"name": "distinctiveness", "angle_deg": 1, "dead_units": False}},
    ),
    "criterion.fpgm.distance": (
        {**HALF, "criterion": {"name": "fpgm"}}, {**HALF, "criterion": {"name": "fpgm", "distance": "cosine"}}
    ),
    **{f"criterion.{name}.loss": (by_limit(name), by_limit(name, loss="squared_error")) for name in BY_LOSS},
    **{f"criterion.{name}.signed": (by_loss(name), by_loss(name, signed=False)) for name in BY_LOSS},
    **{f"criterion.{name}.order": (by_loss(name, 0.3), by_loss(name, 0.3, order="rerank")) for name in BY_LOSS},
    **{f"criterion.{name}.threshold": (by_limit(name), by_limit(name, threshold=0.0)) for name in BY_LOSS},
    **{f"criterion.{name}.samples": (by_loss(name), by_loss(name, samples=5)) for name in BY_LOSS},
    "criterion.taylor2.hessian": (by_loss("taylor2"), by_loss("taylor2", hessian="gauss_newton")),
    "criterion.brute_force.cascade": (by_loss("brute_force"), by_loss("brute_force", cascade=0.3)),
    "criterion.karnin.of": (
        {"criterion": {**KARNIN, "threshold": 0.4}}, {"criterion": {**KARNIN, "threshold": 0.4, "of": "units"}}
    ),
    "criterion.karnin.normalise": (
        {"criterion": {**KARNIN, "threshold": 0.4}}, {"criterion": {**KARNIN, "threshold": 0.4, "normalise": "abs"}}
    ),
    "criterion.karnin.threshold": (
        {"criterion": {**KARNIN, "threshold": 0.4}}, {"criterion": {**KARNIN, "threshold": 0.5}}
    ),
    "criterion.karnin.learning_rate": (
        {"criterion": {**KARNIN, "threshold": 1, "normalise": "none", "learning_rate": 1}},
        {"criterion": {**KARNIN, "threshold": 1, "normalise": "none", "learning_rate": 0.1}},
    ),
    "criterion.karnin.pattern": (
        {"criterion": {**KARNIN, "pattern": {"n": 2, "m": 4}}}, {"criterion": {**KARNIN, "pattern": {"n": 1, "m": 4}}}
    ),
    "criterion.karnin.across": (
        {"criterion": KARNIN, "amount": SOME}, {"criterion": {**KARNIN, "across": "global"}, "amount": SOME}
    ),
    "criterion.random.of": (
        {"criterion": {"name": "random"}, "amount": {"remove_units": 0.5}}, {"criterion": CHANCE, "amount": SOME}
    ),
    "criterion.random.pattern": (
        {"criterion": {**CHANCE, "pattern": {"n": 2, "m": 4}}},
        {"criterion": {**CHANCE, "pattern": {"rows": 2, "cols": 2}}, "amount": SOME},
    ),
    "criterion.random.across": (
        {"criterion": CHANCE, "amount": SOME}, {"criterion": {**CHANCE, "across": "row"}, "amount": SOME}
    ),
    "criterion.magnitude.pattern": (
        {"criterion": WEIGHTS, "amount": SOME}, {"criterion": {**WEIGHTS, "pattern": {"n": 2, "m": 4}}}
    ),
    "criterion.sparsegpt.pattern": (
        {"criterion": {"name": "sparsegpt", "pattern": {"n": 2, "m": 4}}},
        {"criterion": {"name": "sparsegpt", "pattern": {"n": 1, "m": 4}}},
    ),
    "criterion.wanda.pattern": (
        {"criterion": {"name": "wanda", "pattern": {"n": 2, "m": 4}}},
        {"criterion": {"name": "wanda", "pattern": {"rows": 2, "cols": 2}}, "amount": SOME},
    ),
    "criterion.wanda.across": (
        {"criterion": {"name": "wanda"}, "amount": SOME},
        {"criterion": {"name": "wanda", "across": "layer"}, "amount": SOME},
    ),
    "criterion.wanda.threshold": (
        {"criterion": {"name": "wanda", "threshold": 0.1}}, {"criterion": {"name": "wanda", "threshold": 0.3}}
    ),
    "criterion.magnitude.norm": (HALF, {**HALF, "criterion": {"name": "magnitude", "norm": "l1"}}),
    "criterion.magnitude.of": (
        {"criterion": {"name": "magnitude", "threshold": 0.8}},
        {"criterion": {"name": "magnitude", "of": "weights", "threshold": 0.8}},
    ),
    "criterion.magnitude.across": (
        {"criterion": {"name": "magnitude", "of": "weights"}, "amount": {"remove_weights": 0.5}},
        {"criterion": {"name": "magnitude", "of": "weights", "across": "global"}, "amount": {"remove_weights": 0.5}},
    ),
    "criterion.magnitude.threshold": (
        {"criterion": {"name": "magnitude", "threshold": 0.8}},
        {"criterion": {"name": "magnitude", "threshold": 1.0}},
    ),
    "amount.threshold": (WIDE, {**WIDE, "amount": {"remove_units": 0.5}}),
    "amount.remove_units": (HALF, {**HALF, "amount": {"remove_units": 0.3}}),
    "amount.remove_weights": (
        {"criterion": {"name": "magnitude", "of": "weights"}, "amount": {"remove_weights": 0.5}},
        {"criterion": {"name": "magnitude", "of": "weights"}, "amount": {"remove_weights": 0.6}},
    ),
    "amount.keep_macs": (
        {**HALF, "amount": {"keep_macs": 0.5}}, {**HALF, "amount": {"keep_macs": 0.3}}
    ),
    "amount.keep_parameters": (
        {**HALF, "amount": {"keep_parameters": 0.5}}, {**HALF, "amount": {"keep_parameters": 0.3}}
    ),
    "amount.keep_file_bytes": ({"amount": {"keep_file_bytes": 0.8}}, {"amount": {"keep_file_bytes": 0.6}}),
    "amount.keep_peak_ram": ({"amount": {"keep_peak_ram": 0.9}}, {"amount": {"keep_peak_ram": 0.7}}),
    "round_to": (HALF, {**HALF, "round_to": 4}),
    "compensation": (WIDE, {**WIDE, "compensation": "project"}),
    "effort": (WIDE, {**WIDE, "effort": "thorough"}),
    "share_out": ({"amount": {"keep_macs": 0.6}}, {"amount": {"keep_macs": 0.6}, "share_out": "uniform"}),
    "scope.include": (HALF, {**HALF, "scope": {"include": ["fc*"]}}),
    "scope.exclude": (HALF, {**HALF, "scope": {"exclude": ["fc*"]}}),
    "scope.operators": (HALF, {**HALF, "scope": {"operators": ["Conv"]}}),
    "scope.minimum_kept": (HALF, {**HALF, "scope": {"minimum_kept": 4}}),
    "preprocess.scale": (HALF, {**HALF, **SCALED}),
    "preprocess.mean": (HALF, {**HALF, "preprocess": {"mean": [0.5]}}),
    "preprocess.std": (HALF, {**HALF, "preprocess": {"std": [1, 2, 3]}}),
    "preprocess.channels": (HALF, {**HALF, "preprocess": {"channels": "BGR"}}),
    "preprocess.inputs": ({**HALF, **SCALED}, {**HALF, "preprocess": {"scale": 2.0, "inputs": ["x"], "mean": [1]}}),
    "evaluation.task": (HALF, {**HALF, "evaluation": {"task": "fidelity"}}),
    "constraints.max_accuracy_drop": (HALF, {**HALF, "constraints": {"max_accuracy_drop": 0.001}}),
    "constraints.min_accuracy": (HALF, {**HALF, "constraints": {"min_accuracy": 0.999}}),
    "constraints.max_file_bytes": (HALF, {**HALF, "constraints": {"max_file_bytes": 100}}),
    "constraints.max_parameters": (HALF, {**HALF, "constraints": {"max_parameters": 10}}),
    "constraints.max_macs": (HALF, {**HALF, "constraints": {"max_macs": 10}}),
    "constraints.max_peak_ram_bytes": (HALF, {**HALF, "constraints": {"max_peak_ram_bytes": 10}}),
    "constraints.max_latency_ms": (HALF, {**HALF, "constraints": {"max_latency_ms": 1e-9}}),
    "constraints.fits_target": (
        {**HALF, "target": {"flash_bytes": 10, "ram_bytes": 10}},
        {**HALF, "target": {"flash_bytes": 10, "ram_bytes": 10}, "constraints": {"fits_target": True}},
    ),
    "target": ({**HALF, "target": "stm32f4"}, {**HALF, "target": "rp2040"}),
    "distill": (HALF, {**HALF, "distill": {"epochs": 3}}),
    "quantize": (HALF, {**HALF, "quantize": {}}),
    "sparse_output": (
        {"criterion": WEIGHTS, "amount": SOME}, {"criterion": WEIGHTS, "amount": SOME, "sparse_output": True}
    ),
    "seed": (WIDE, {**WIDE, "seed": 5}),
}  # fmt: skip

# Options whose effect has a test of its own.
ELSEWHERE = {
    "criterion.sparsegpt.damping": "tests/engine/test_weights.py",
    "criterion.sparsegpt.block_columns": "tests/engine/test_weights.py",
    "amount.keep_latency": "tests/engine/test_select.py",
    "amount.search": "tests/engine/test_search.py",
    "lossy": "tests/engine/test_lossy.py",
    "external_data": "tests/engine/test_shelf.py",
    "preprocess.layout": "tests/engine/test_data_read.py and below",
    "evaluation.output": "below",
    "evaluation.class_axis": "tests/engine/test_evaluate_task.py",
    "evaluation.from": "tests/engine/test_evaluate_score.py",
    "evaluation.threshold": "tests/engine/test_evaluate_score.py",
    "verify_on": "tests/engine/test_firmware.py",
    "sample_axes": "tests/engine/test_sample_axes.py",
    "device": "below: refused where there is no CUDA, and tests/service for the queue",
}


def outcome(report: Report) -> object:
    """What a user would call the result: the file, the judgement and the verdict, without times."""
    broken = [line.split(":")[0] for line in report.verdict.broken]
    return (
        removed(report),
        report.after.nonzero_parameters,
        [layer.nonzero_after for layer in report.layers],
        [one.file for one in report.storage],
        report.before.accuracy,
        report.after.accuracy,
        broken,
        [pair for group in report.groups for pair in group.pairs],
        report.devices.target,
    )


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_an_outcome(option: str, tmp_path: Path) -> None:
    one, other = OPTIONS[option]
    assert outcome(job(tmp_path / "a", one)) != outcome(job(tmp_path / "b", other))


def test_no_option_is_without_such_a_test() -> None:
    sections = {"amount": Amount, "scope": Scope, "preprocess": Preprocess, "evaluation": Evaluation,
                "constraints": Constraints}  # fmt: skip
    every = {name for name in PruneRequest.model_fields if name not in (*sections, "criterion")}
    for section, fields in sections.items():
        every |= {f"{section}.{field.alias or name}" for name, field in fields.model_fields.items()}
    for name, criterion in CRITERIA.items():
        every |= {f"criterion.{name}.{field}" for field in criterion.model_fields if field != "name"}
    assert every == set(OPTIONS) | set(ELSEWHERE)


def test_layout_takes_images_as_cameras_give_them(tmp_path: Path) -> None:
    proto = cnn()
    feeds = feeds_for(proto, SAMPLES)
    np.savez(tmp_path / "nhwc.npz", x=feeds["x"].transpose(0, 2, 3, 1))
    np.savez(tmp_path / "nchw.npz", x=feeds["x"])
    model = as_input(save(proto, tmp_path))
    reports = []
    for name, options in (("nhwc", {**WIDE, "preprocess": {"layout": "NHWC"}}), ("nchw", WIDE)):
        inputs = Inputs(model, {}, as_input(tmp_path / f"{name}.npz"), None)
        reports.append(prune(parse_options(options), inputs, tmp_path, Limits(1, 1 << 30), lambda _: None))
    assert removed(reports[0]) == removed(reports[1])
    with pytest.raises(EspalierError) as caught:
        prune(parse_options(WIDE), Inputs(model, {}, as_input(tmp_path / "nhwc.npz"), None), tmp_path,
              Limits(1, 1 << 30), lambda _: None)  # fmt: skip
    assert "data_shape_mismatch" == caught.value.code


def test_the_output_that_is_judged_can_be_chosen(tmp_path: Path) -> None:
    proto = mlp()
    proto.graph.output.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 8]))
    first = job(tmp_path / "a", HALF, proto, labels=False).after.accuracy
    second = job(tmp_path / "b", {**HALF, "evaluation": {"output": "c"}}, proto, labels=False).after.accuracy
    assert isinstance(first, FidelityScore)
    assert first != second


def test_cuda_is_refused_where_there_is_none(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(EspalierError) as caught:
        job(tmp_path, {**HALF, "device": "cuda"})
    assert "device_unavailable" == caught.value.code


def test_without_labels_the_report_gives_fidelity(tmp_path: Path) -> None:
    report = job(tmp_path, HALF, labels=False)
    assert isinstance(report.after.accuracy, FidelityScore)
    assert isinstance(report.before.accuracy, FidelityScore)
    assert 1.0 == report.before.accuracy.score
    assert report.after.accuracy.relative_error > 0


def test_without_data_magnitude_still_prunes_and_proves(tmp_path: Path) -> None:
    report = job(tmp_path, HALF, calibration=False)
    assert report.after.accuracy is None
    assert report.exactness.passed
    assert report.exactness.mask_has_effect
    assert any("no data" in warning for warning in report.warnings)


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    proto = reshaped_at_run_time()
    for put in (*proto.graph.input, *proto.graph.output):
        put.type.tensor_type.shape.dim[0].dim_value = 4
    folder = tmp_path
    save(proto, folder)
    feeds = feeds_for(reshaped_at_run_time(), 30)
    np.savez(folder / "calibration.npz", **feeds)
    inputs = Inputs(as_input(folder / "model.onnx"), {}, as_input(folder / "calibration.npz"), None)
    report = prune(parse_options(WIDE), inputs, folder, Limits(1, 1 << 30), lambda _: None)
    assert report.exactness.passed
    after = onnx.load(folder / "artifact.onnx")
    assert 4 == after.graph.input[0].type.tensor_type.shape.dim[0].dim_value


def test_the_artifact_says_where_it_comes_from(tmp_path: Path) -> None:
    report = job(tmp_path, HALF)
    props = {prop.key: prop.value for prop in onnx.load(tmp_path / "artifact.onnx").metadata_props}
    assert report.provenance.model_sha256 == props["espalier.source_sha256"]
    assert HALF["amount"] == json.loads(props["espalier.options"])["amount"]
    assert report.provenance.versions["espalier"] == props["espalier.version"]


@pytest.mark.parametrize(("options", "calibration", "code"), [
    ({}, False, "calibration_required"),
    ({**HALF, "compensation": "merge"}, False, "calibration_required"),
    ({**HALF, "scope": {"include": ["nobody"]}}, True, "scope_matches_nothing"),
    ({**HALF, "amount": {"keep_macs": 0.0001}}, True, "amount_unreachable"),
    ({**HALF, "evaluation": {"output": "nobody"}}, True, "evaluation_invalid"),
    ({**HALF, "criterion": {"name": "apoz"}}, False, "calibration_required"),
    ({**HALF, "criterion": {"name": "bn_scale"}, "scope": {"include": ["fc1"]}}, True, "criterion_not_applicable"),
    ({**HALF, "preprocess": {"mean": [1, 2]}}, True, "preprocess_invalid"),
])  # fmt: skip
def test_what_the_caller_causes_is_refused_by_code(
    options: dict[str, object], calibration: bool, code: str, tmp_path: Path
) -> None:
    with pytest.raises(EspalierError) as caught:
        job(tmp_path, options, calibration=calibration)
    assert code == caught.value.code


def test_the_scope_refusal_lists_what_could_be_named(tmp_path: Path) -> None:
    with pytest.raises(EspalierError, match="c1, c2, fc1"):
        job(tmp_path, {**HALF, "scope": {"include": ["nobody"]}})


def test_groups_that_the_criterion_has_no_say_on_stay_and_the_report_says_why(tmp_path: Path) -> None:
    report = job(tmp_path, {**HALF, "criterion": {"name": "bn_scale"}})
    assert {"c1": 3, "c2": 0, "fc1": 0} == {name: len(units) for name, units in removed(report).items()}
    told = {one.where: one for one in report.refusals if one.reason == "criterion_not_applicable"}
    assert {"c2", "fc1"} == set(told)
    assert "no BatchNormalization" in told["c2"].message
    assert 5 * 6 * 9 + 5 == told["c2"].parameters


def test_a_threshold_that_finds_nothing_succeeds_with_a_warning(tmp_path: Path) -> None:
    report = job(tmp_path, {"criterion": {"name": "distinctiveness", "angle_deg": 0, "dead_units": False}})
    assert {"c1": (), "c2": (), "fc1": ()} == removed(report)
    assert any(warning.startswith("Nothing was removed") for warning in report.warnings)


def test_a_job_whose_cut_is_wrong_fails_its_proof(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = surgery.indices_gone

    def wrong(*given: object) -> object:
        gone = real(*given)  # type: ignore[arg-type]
        gone["fc2.weight", 1] = (gone["fc2.weight", 1] + 1) % 7
        return gone

    monkeypatch.setattr(surgery, "indices_gone", wrong)
    with pytest.raises(EspalierError) as caught:
        job(tmp_path, HALF)
    assert "exactness_failed" == caught.value.code


def test_the_proof_sees_small_and_large_differences() -> None:
    base = np.linspace(-1, 1, 50, dtype=np.float32).reshape(5, 10)
    for change, passed in ((0.0, True), (5e-5, True), (5e-4, False), (np.nan, False), (np.inf, False)):
        other = base.copy()
        other[2, 3] += change
        assert passed == verify.compare(["y"], [other], [base], [base], 5).passed
    assert not verify.compare(["y"], [base[:4]], [base], [base], 5).passed


def test_an_artifact_that_does_not_load_is_rejected(tmp_path: Path) -> None:
    job(tmp_path, HALF)
    proto = onnx.load(tmp_path / "artifact.onnx")
    proto.graph.initializer.pop()
    (tmp_path / "broken.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(EspalierError) as caught:
        verify_artifact(tmp_path / "broken.onnx")
    assert "artifact_rejected" == caught.value.code


def test_a_bias_that_is_made_counts_in_the_budget(tmp_path: Path) -> None:
    nodes = [Node("MatMul", ["x", "a"], "h"), Node("Sigmoid", ["h"], "r"), Node("MatMul", ["r", "b"], "y")]
    proto = model(nodes, {"a": (12, 40), "b": (40, 30)}, ROW, ["y"])
    report = job(tmp_path, {"amount": {"keep_parameters": 0.2}}, proto)
    artifact = onnx.load(tmp_path / "artifact.onnx")
    assert ["MatMul", "Sigmoid", "MatMul", "Add"] == [node.op_type for node in artifact.graph.node]
    widths = {one.name: one.dims[-1] for one in artifact.graph.initializer}
    assert 30 == widths["y.bias"]
    # One unit more, and the weights alone would still have been within it.
    assert report.after.parameters <= 0.2 * report.before.parameters < report.after.parameters - 30 + 2 * 42


def test_what_is_projected_is_judged_by_each_consumer(tmp_path: Path) -> None:
    """Of units that have nothing in common the closest says little: where that helps nobody the unit is dropped."""
    report = job(tmp_path, {**HALF, "compensation": "project"})
    assert ["c2", "fc1", "fc2"] == [one.layer for one in report.refits]
    kept = {one.layer for one in report.refits if one.ridge is not None}
    for one in report.refits:
        assert (one.error_after < one.error_before) == (one.layer in kept)
    for group in report.groups:
        actions = {pair.action for pair in group.pairs}
        assert actions <= ({"projected", "dropped"} if kept & set(group.consumers) else {"dropped"})
