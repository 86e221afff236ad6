"""onnxruntime as it is: sessions, batches, latency, and models that do not run."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from schemas.errors import EspalierError
from schemas.report import ClassificationScore
from worker.engine import shelf
from worker.engine.data import Samples
from worker.engine.evaluate import Reference, Task, fixed_batch, latency_ms, outputs, score, session

WEIGHTS = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)


def model(batch: int | str = "n", weights: np.ndarray = WEIGHTS, op: str = "MatMul") -> bytes:
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"]), helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 6])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10]),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, []),
        ],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def samples(count: int) -> Samples:
    x = np.random.default_rng(1).normal(size=(count, 6)).astype(np.float32)
    return Samples({"x": x}, (x @ WEIGHTS).argmax(1))


@pytest.mark.parametrize("count", [1, 5, 700])
@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_outputs_are_the_same_for_every_batch_size(count, batch):
    given = samples(count)
    runs = session(model(batch))
    found = outputs(runs, given, fixed_batch(runs), ["y"])
    assert (None if batch == "n" else batch) == fixed_batch(runs)
    np.testing.assert_allclose(found["y"], given.inputs["x"] @ WEIGHTS, rtol=1e-4, atol=1e-5)


def test_an_output_without_a_row_for_each_sample():
    runs = session(model())
    assert list(outputs(runs, samples(5), None)) == ["y"]
    with pytest.raises(EspalierError) as caught:
        outputs(runs, samples(5), None, ["total"])
    assert caught.value.code == "evaluation_invalid"


def test_a_model_with_external_data_is_read_from_its_path(tmp_path: Path):
    proto = onnx.load_from_string(model())
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    found = outputs(session(tmp_path / "m.onnx"), samples(3), None)
    np.testing.assert_allclose(found["y"], samples(3).inputs["x"] @ WEIGHTS, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("broken", [b"", b"not a model", model()[:-40], model(op="NoSuchOperator")])
def test_a_model_that_does_not_load(broken, capfd):
    with pytest.raises(EspalierError) as caught:
        session(broken)
    assert caught.value.code == "model_does_not_run"
    assert len(caught.value.failure.detail) < 400
    assert "ONNXRuntimeError" not in caught.value.failure.detail
    assert capfd.readouterr() == ("", "")


def test_a_model_that_does_not_run(capfd):
    runs = session(model())
    wrong = Samples({"x": np.ones((2, 7), np.float32)})
    for given in (wrong, Samples({"z": np.ones((2, 6), np.float32)}), Samples({"x": np.ones((2, 6), np.float64)})):
        with pytest.raises(EspalierError) as caught:
            outputs(runs, given, None)
        assert caught.value.code == "model_does_not_run"
    assert capfd.readouterr() == ("", "")


def test_a_model_that_there_is_no_memory_for(capfd):
    """A tensor of 2^60 bytes: no machine has it."""
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(np.array([2**58]), "size")],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with pytest.raises(EspalierError) as caught:
        outputs(session(built), samples(2), None)
    assert caught.value.code == "job_out_of_memory"
    assert capfd.readouterr() == ("", "")


def test_judging_two_models_one_after_the_other_is_scoring_each(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "LARGE", 64)
    given = samples(600)
    other = WEIGHTS + 0.3 * np.random.default_rng(2).normal(size=WEIGHTS.shape).astype(np.float32)
    before, after = session(model()), session(model(weights=other))
    task = Task("classification", "y", 1)
    with shelf.Shelf(tmp_path / "shelf") as held:
        reference = Reference(task, before, given, None, held)
        assert held.holds("espalier-weights-0")
        first, second = reference.score, reference.judge(after)
    mine, theirs = outputs(before, given, None), outputs(after, given, None)
    assert score(task, mine, given.labels, None) == first.model_copy(
        update={"agreement": None, "loss": pytest.approx(first.loss)}
    )
    assert score(task, theirs, given.labels, mine) == second.model_copy(update={"loss": pytest.approx(second.loss)})
    assert isinstance(second, ClassificationScore)
    assert first.score == 1.0
    assert second.agreement == second.model_copy(update={"loss": pytest.approx(second.loss)}).score != 1.0


def test_fidelity_of_the_uploaded_model_is_to_itself():
    assert 1.0 == Reference(Task("fidelity", "y", 1), session(model()), samples(20), None).score.score


def test_latency_is_the_median_within_its_budget():
    ticks = iter(range(10**6))
    runs = session(model(), threads=1)

    def clock() -> float:
        return next(ticks) / 100

    assert latency_ms(runs, samples(1), budget_seconds=0.3, clock=clock) == pytest.approx(10)
    assert next(ticks) < 60
    assert latency_ms(runs, samples(1)) > 0
