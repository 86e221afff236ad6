"""What is judged is decided by the last operator and the labels, never by the outputs' values."""

import numpy as np
import pytest

from schemas.errors import EspalierError
from schemas.request import Evaluation
from worker.engine.evaluate import OutputInfo, Task, resolve_task

LOGITS = OutputInfo("logits", (None, 10), "Gemm")
SOFTMAX = OutputInfo("p", (None, 10), "Softmax", axis=-1)
SIGMOID = OutputInfo("p", (None, 1), "Sigmoid")
ONE = OutputInfo("value", (None, 1), "Gemm")
MANY = OutputInfo("values", (None, 4), "Gemm")
YES_NO = OutputInfo("p", (None, 4), "Sigmoid")
SEQUENCE = OutputInfo("tags", (None, 7, 5), "MatMul")
MAP = OutputInfo("map", (None, 3, 8, 9), "Conv")
SQUEEZENET = OutputInfo("softmaxout_1", (None, 1000, 1, 1), "Softmax")
ARGMAX = OutputInfo("class", (None,), "ArgMax", integers=True)

INTS = np.arange(6) % 10
BITS = np.arange(6) % 2


def resolve(out: OutputInfo, labels: np.ndarray | None, **options) -> Task:
    return resolve_task(Evaluation(**options), [out, OutputInfo("other", (None, 2))], labels)


def refusal(out: OutputInfo, labels: np.ndarray | None, **options) -> EspalierError:
    with pytest.raises(EspalierError) as caught:
        resolve(out, labels, **options)
    return caught.value


@pytest.mark.parametrize(
    ("out", "labels", "kind", "axis"),
    [
        (LOGITS, INTS, "classification", 1),
        (LOGITS, INTS[:, None], "classification", 1),
        (SOFTMAX, INTS, "classification", 1),
        (SQUEEZENET, INTS, "classification", 1),
        (SEQUENCE, np.zeros((6, 7), int), "classification", 2),
        (MAP, np.zeros((6, 8, 9), int), "classification", 1),
        (ARGMAX, INTS, "classification", None),
        (SIGMOID, BITS, "binary", None),
        (SIGMOID, BITS.astype(bool)[:, None], "binary", None),
        (ONE, BITS, "binary", None),
        (YES_NO, np.array([[0, 1, 1, 0], [1, 1, 1, 1]]), "binary", None),
        (ONE, INTS, "regression", None),
        (ONE, BITS * 0.5, "regression", None),
        (MANY, np.ones((6, 4)) * 0.3, "regression", None),
        (SIGMOID, BITS * 0.5, "regression", None),
        (LOGITS, None, "fidelity", 1),
        (SOFTMAX, None, "fidelity", 1),
        (SQUEEZENET, None, "fidelity", 1),
        (SIGMOID, None, "fidelity", None),
        (ONE, None, "fidelity", None),
        (MAP, None, "fidelity", None),
        (SEQUENCE, None, "fidelity", None),
    ],
)
def test_what_is_inferred(out, labels, kind, axis):
    task = resolve(out, labels)
    assert (kind, out.name, axis) == (task.kind, task.output, task.class_axis)


def test_the_link_of_a_binary_output_follows_the_last_operator():
    assert resolve(SIGMOID, BITS).link == "probabilities"
    assert resolve(ONE, BITS).link == "logits"
    assert resolve(ONE, BITS, **{"from": "probabilities"}).link == "probabilities"
    assert resolve(SIGMOID, BITS, threshold=0.2).threshold == 0.2


def test_every_option_decides():
    assert resolve(ONE, BITS, task="regression").kind == "regression"
    assert resolve(LOGITS, INTS, task="fidelity").kind == "fidelity"
    assert resolve(OutputInfo("p", (None, 1), "Relu"), BITS, task="binary").kind == "binary"
    assert resolve(MAP, None, class_axis=1).class_axis == 1
    assert resolve(MAP, None, class_axis=-3).class_axis == 1
    square = OutputInfo("square", (None, 5, 5), "MatMul")
    assert resolve(square, np.zeros((6, 5), int)).class_axis == 1
    assert resolve(square, np.zeros((6, 5), int), class_axis=2).class_axis == 2
    assert resolve(LOGITS, BITS, output="other").output == "other"


@pytest.mark.parametrize(
    ("out", "labels", "options", "code", "part"),
    [
        (LOGITS, INTS, {"output": "othr"}, "evaluation_invalid", "did you mean 'other'?"),
        (LOGITS, INTS, {"class_axis": 0}, "evaluation_invalid", "class_axis 0 is no axis"),
        (LOGITS, INTS, {"class_axis": 2}, "evaluation_invalid", "class_axis 2 is no axis"),
        (LOGITS, INTS, {"class_axis": -2}, "evaluation_invalid", "class_axis -2 is no axis"),
        (LOGITS, None, {"task": "classification"}, "labels_invalid", "needs labels"),
        (LOGITS, INTS + 5, {}, "labels_invalid", "label 10 of sample 5; the output has 10 classes, 0 to 9"),
        (LOGITS, INTS - 1, {}, "labels_invalid", "label -1 of sample 0"),
        (LOGITS, INTS * 1.0, {}, "labels_invalid", "float64; classes are integers"),
        (LOGITS, INTS * 1.0, {"task": "classification"}, "labels_invalid", "float64; classes are integers"),
        (LOGITS, np.eye(10, dtype=int), {}, "labels_invalid", "one-hot"),
        (LOGITS, np.eye(10), {}, "labels_invalid", "one-hot"),
        (LOGITS, np.eye(10, dtype=int), {"task": "classification"}, "labels_invalid", "one-hot"),
        (LOGITS, np.zeros((6, 3), int), {}, "labels_invalid", "(6, 3) and output 'logits' has [None, 10]"),
        (MAP, np.zeros((6, 8, 8), int), {}, "labels_invalid", "(6, 8, 8)"),
        (ONE, INTS, {"task": "binary"}, "labels_invalid", "2 classes, 0 to 1"),
        (ONE, BITS * 1.0, {"task": "binary"}, "labels_invalid", "integers"),
        (LOGITS, BITS, {"task": "binary"}, "labels_invalid", "one number for each label"),
        (LOGITS, INTS * 0.5, {"task": "regression"}, "labels_invalid", "one number for each label"),
    ],
)
def test_what_does_not_fit_is_refused(out, labels, options, code, part):
    error = refusal(out, labels, **options)
    assert code == error.code
    assert part in error.failure.detail


def test_labels_that_count_from_one_are_recognised():
    assert "subtract 1" in refusal(LOGITS, np.arange(1, 11)).failure.hint
