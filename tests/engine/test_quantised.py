"""What onnxruntime's quantiser writes: in every form units go, and a removed one reads as what stands for zero."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime import quantization

from tests.engine.dissect import Dissected, dissect
from tests.engine.nets import cnn, dense_block, feeds_for, mlp, mobile, residual, save
from tests.engine.test_run import HALF, job
from worker.engine.graph import Array, freeze
from worker.engine.load import load
from worker.engine.primitives import Primitives
from worker.engine.quantised import real

UINT8, INT8 = quantization.QuantType.QUInt8, quantization.QuantType.QInt8
NETS = {"mlp": mlp, "cnn": cnn, "residual": residual, "dense_block": dense_block, "mobile": mobile}
FORMS = {
    "qdq": (quantization.QuantFormat.QDQ, False, UINT8, INT8),
    "qdq_per_channel": (quantization.QuantFormat.QDQ, True, INT8, INT8),
    "operators": (quantization.QuantFormat.QOperator, False, UINT8, UINT8),
    "operators_per_channel": (quantization.QuantFormat.QOperator, True, UINT8, INT8),
    "operators_signed": (quantization.QuantFormat.QOperator, False, INT8, INT8),
}
EVERY = (*FORMS, "dynamic", "dynamic_per_channel")


class _Batches(quantization.CalibrationDataReader):  # type: ignore[misc]  # the package has no types
    def __init__(self, feeds: dict[str, Array]) -> None:
        self._rest: Iterator[dict[str, Array]] = iter([feeds])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._rest, None)


def quantise(net: str, form: str, folder: Path) -> onnx.ModelProto:
    proto = NETS[net]()
    folder.mkdir(exist_ok=True)
    source, target = save(proto, folder), folder / f"{form}.onnx"
    if form in FORMS:
        written, per_channel, activations, weights = FORMS[form]
        quantization.quantize_static(
            source,
            target,
            _Batches(feeds_for(proto, 16)),
            quant_format=written,
            per_channel=per_channel,
            activation_type=activations,
            weight_type=weights,
        )
    else:
        per_channel = form == "dynamic_per_channel"
        quantization.quantize_dynamic(
            source, target, per_channel=per_channel, weight_type=INT8 if per_channel else UINT8
        )
    return onnx.load(target)


def _assert_exact(dissected: Dissected) -> None:
    gone = dissected.random_half()
    onnx.checker.check_model(dissected.cut(gone), full_check=True)
    proof = dissected.proof(gone)
    assert proof.passed, proof
    assert proof.mask_has_effect


PAIRS = [("cnn", form) for form in EVERY]
PAIRS += [(net, form) for net in NETS if net != "cnn" for form in ("operators_per_channel", "dynamic_per_channel")]


@pytest.mark.parametrize(("net", "form"), PAIRS)
def test_what_the_quantiser_writes_prunes_as_the_original(net: str, form: str, tmp_path: Path) -> None:
    original = {group.units for group in dissect(NETS[net](), tmp_path).analysis.groups}
    dissected = dissect(quantise(net, form, tmp_path / form), tmp_path / form)
    assert original == {group.units for group in dissected.analysis.groups}
    _assert_exact(dissected)


def test_the_oracle_sees_units_that_read_as_the_integer_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The fault: a mask that writes 0, where -128 stands for zero."""
    dissected = dissect(quantise("cnn", "operators_signed", tmp_path), tmp_path)
    assert dissected.proof(dissected.random_half()).passed
    honest = Primitives.where
    monkeypatch.setattr(Primitives, "where", lambda self, mask, x, _: honest(self, mask, x, None))
    assert not dissected.proof(dissected.random_half()).passed


WEIGHTS = {"criterion": {"name": "magnitude", "of": "weights"}, "amount": {"remove_weights": 0.5}}


@pytest.mark.parametrize(("form", "options"), [
    ("operators", HALF),
    ("dynamic", HALF),
    ("operators_signed", {**HALF, "criterion": {"name": "distinctiveness"}}),
    ("dynamic_per_channel", {**HALF, "criterion": {"name": "distinctiveness"}}),
    ("qdq", WEIGHTS),
    ("operators", WEIGHTS),
])  # fmt: skip
def test_whole_jobs_over_quantised_models(form: str, options: dict[str, object], tmp_path: Path) -> None:
    report = job(tmp_path / "job", options, quantise("cnn", form, tmp_path / "quantised"), labels=False)
    assert report.exactness.passed
    assert report.exactness.mask_has_effect
    weights = "remove_weights" in str(options)
    counted = (report.after.nonzero_parameters if weights else report.after.parameters) / report.before.parameters
    assert counted < 0.7


def test_real_values_are_those_that_the_quantiser_saw(tmp_path: Path) -> None:
    saved = {one.name: onnx.numpy_helper.to_array(one) for one in cnn().graph.initializer}
    for form in ("operators", "operators_per_channel"):
        quantise("cnn", form, tmp_path)
        graph = freeze(load(tmp_path / f"{form}.onnx", {}).model)
        found = {name: real(graph, name) for name in graph.constants if name.endswith("weight_quantized")}
        assert len(found) >= 3
        for name, values in found.items():
            exact = saved[name.removesuffix("_quantized")]
            step = np.abs(exact).max() / 127
            np.testing.assert_allclose(values, exact, atol=1.01 * step)
