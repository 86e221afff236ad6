"""`lossy`: statistics over units are those of the units that stay, in the file and in the model that it is proved
against; what adds units up needs no such permission."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.engine.dissect import assert_exact, dissect, run
from tests.engine.nets import Node
from tests.engine.nets_lossy import LOSSY, SUMS, UNITS, decomposed, layer_norm, layer_norm_half
from tests.engine.test_inspect import look
from tests.engine.test_run import HALF, job
from worker.engine import ops, verify
from worker.engine.graph import Array, Op
from worker.engine.ops.rule import OverKept
from worker.engine.primitives import Primitives, Value
from worker.engine.render import render_html

STREAM = {"into": UNITS, "up0": 7, "up": 9}
IMAGE = {"c1": 6, "c2": 5}
OPENED = {**dict.fromkeys(LOSSY, STREAM), **dict.fromkeys(("group_norm_of_one", "group_norm_as_instances"), IMAGE)}
OPENED["mean_over_channels"] = IMAGE


def _groups(name: str, folder: Path, lossy: bool) -> dict[str, int]:
    found = dissect(LOSSY[name](), folder, lossy=lossy).analysis.groups
    return {group.layers[0].weight.removesuffix(".weight"): group.units for group in found}


@pytest.mark.parametrize("name", LOSSY)
def test_the_option_opens_what_statistics_pin(name: str, tmp_path: Path) -> None:
    opened = {"into", "c1"}
    assert OPENED[name] == _groups(name, tmp_path, lossy=True)
    assert {one: units for one, units in OPENED[name].items() if one not in opened} == _groups(name, tmp_path, False)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_file_computes_statistics_over_what_stays(name: str, seed: int, tmp_path: Path) -> None:
    assert_exact(dissect(LOSSY[name](), tmp_path, lossy=True), seed)


@pytest.mark.parametrize("name", SUMS)
def test_what_adds_units_up_is_exact_without_the_option(name: str, tmp_path: Path) -> None:
    dissected = dissect(SUMS[name](), tmp_path)
    assert set(STREAM.values()) == {group.units for group in dissected.analysis.groups}
    assert_exact(dissected, 0)


def _standardised(x: Array) -> Array:
    found: Array = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    return found


def test_the_masked_model_normalises_over_the_kept_units_alone(tmp_path: Path) -> None:
    """By hand, in numpy: the stream of the full-width model, its kept columns normalised."""
    dissected = dissect(layer_norm(), tmp_path, lossy=True)
    gone, kept = (0, 3, 4, 8), [1, 2, 5, 6, 7, 9, 10, 11]
    masked = dissected.masked({dissected.names()[0]: gone})
    masked.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in ("s", "n"))
    _, stream, found = run(masked, dissected.feeds)
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in layer_norm().graph.initializer}
    scaled = _standardised(stream[..., kept]) * weights["ln.scale"][kept] + weights["ln.shift"][kept]
    np.testing.assert_allclose(found[..., kept], scaled, rtol=1e-4, atol=1e-5)


def _over_all(honest: OverKept) -> OverKept:
    """The fault: statistics over all units."""

    def write(op: Op, build: Primitives, mask: Array) -> tuple[Value, ...]:
        return honest(op, build, np.ones_like(mask))

    return write


@pytest.mark.parametrize(("build", "key"), [(layer_norm, "LayerNormalization"), (decomposed, "ReduceMean")])
def test_the_oracle_sees_statistics_over_all_units(
    build: Callable[[], onnx.ModelProto], key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dissected = dissect(build(), tmp_path, lossy=True)
    gone = dissected.random_half()
    assert dissected.proof(gone).passed
    honest = ops.RULES[key].over_kept
    assert honest is not None
    monkeypatch.setitem(ops.RULES, key, replace(ops.RULES[key], over_kept=_over_all(honest)))
    proof = dissected.proof(gone)
    assert not proof.passed
    assert proof.max_relative_difference > 100 * verify.DEFAULT_TOLERANCE


def test_a_job_says_what_was_opened_and_warns(tmp_path: Path) -> None:
    strict = job(tmp_path / "strict", HALF, layer_norm(), labels=False)
    report = job(tmp_path / "lossy", {**HALF, "lossy": True}, layer_norm(), labels=False)
    assert report.after.parameters < strict.after.parameters
    assert [UNITS] == [group.units_before for group in report.groups if group.lossy]
    assert () == strict.exactness.over_kept
    assert not any(group.lossy for group in strict.groups)
    assert ("/n/LayerNormalization",) == report.exactness.over_kept
    assert report.exactness.passed
    assert report.warnings[0].startswith("Lossy: 1 operator")
    assert not any(one.startswith("Lossy") for one in strict.warnings)
    assert "those of the units that stay" in render_html(report)
    assert report.options.lossy


@pytest.mark.parametrize("answers_in", ["half", "single"])
def test_half_precision_is_judged_by_its_own_digits(answers_in: str, tmp_path: Path) -> None:
    """Whatever the outputs are, and also where zeroed weights are computed in torch, in single precision."""
    proto = layer_norm_half()
    if answers_in == "single":
        proto.graph.node[-1].output[0] = "yh"
        proto.graph.node.append(Node("Cast", ["yh"], "y", {"to": onnx.TensorProto.FLOAT}).proto())
        proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    weights = {"criterion": {"name": "magnitude", "of": "weights"}, "amount": {"remove_weights": 0.5}}
    for number, options in enumerate((weights, {**HALF, "lossy": True})):
        report = job(tmp_path / str(number), options, proto, labels=False)
        assert (1e-2, True) == (report.exactness.tolerance, report.exactness.passed)
    single = job(tmp_path / "single", weights, layer_norm(), labels=False)
    assert 1e-4 == single.exactness.tolerance


def _pins(folder: Path, options: Mapping[str, object]) -> dict[str, str | None]:
    return {one.where: one.opened_by for one in look(folder, layer_norm(), dict(options)).pins}


def test_an_inspection_says_what_the_option_would_open(tmp_path: Path) -> None:
    pins = _pins(tmp_path, {})
    assert {"e": "options.lossy", "d": "options.lossy", "y": None} == pins
    assert "opened by options.lossy" in (tmp_path / "report.md").read_text()
    assert "opened by options.lossy" in (tmp_path / "report.html").read_text()
    assert {"y": None} == _pins(tmp_path / "lossy", {"lossy": True})
    assert "(lossy)" in (tmp_path / "lossy" / "report.md").read_text()
