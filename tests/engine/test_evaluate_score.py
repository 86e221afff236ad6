"""Scores against scikit-learn's, and the ways in which data and outputs cannot be scored."""

import numpy as np
import pytest
from sklearn import metrics

from schemas.errors import EspalierError
from schemas.report import BinaryScore, ClassificationScore, FidelityScore, RegressionScore
from worker.engine.evaluate import Task, score
from worker.engine.evaluate.answers import CONFUSION_CLASSES, PER_CLASS

RNG = np.random.default_rng(7)


def classify(output: np.ndarray, labels: np.ndarray, axis: int | None = 1, reference=None) -> ClassificationScore:
    other = None if reference is None else {"y": reference}
    got = score(Task("classification", "y", axis), {"y": output}, labels, other)
    assert isinstance(got, ClassificationScore)
    return got


def test_classification_agrees_with_scikit_learn():
    output = RNG.normal(size=(400, 10)).astype(np.float32)
    labels = RNG.integers(0, 9, 400)  # class 9 never occurs
    got = classify(output, labels)
    said = output.argmax(1)
    assert metrics.accuracy_score(labels, said) == got.score
    assert metrics.top_k_accuracy_score(labels, output, k=5, labels=range(10)) == got.top5
    assert metrics.confusion_matrix(labels, said, labels=range(10)).tolist() == [list(row) for row in got.confusion]
    recall = metrics.recall_score(labels, said, labels=range(9), average=None)
    assert recall.tolist() == pytest.approx([one.accuracy for one in got.per_class[:9]])
    assert (9, 0, None) == (got.per_class[9].label, got.per_class[9].samples, got.per_class[9].accuracy)
    assert got.agreement is None


def test_the_oracle_sees_a_wrong_prediction():
    output = np.eye(10, dtype=np.float32)
    assert classify(output, np.arange(10)).score == 1.0
    assert classify(output[::-1], np.arange(10)).score == 0.0


def test_agreement_with_the_uploaded_model():
    output = np.eye(10, dtype=np.float32)
    other = output.copy()
    other[0, 3] = 2
    assert classify(output, np.arange(10), reference=other).agreement == 0.9


def test_equal_scores_do_not_flatter_top5():
    """A model that says the same of all classes has its first five in the top five, not all of them."""
    got = classify(np.zeros((10, 10), np.float32), np.arange(10))
    assert (0.1, 0.5) == (got.score, got.top5)


def test_few_classes_have_no_top5():
    assert classify(np.eye(5, dtype=np.float32), np.arange(5)).top5 is None
    assert classify(np.eye(6, dtype=np.float32), np.arange(6)).top5 == 1.0


def test_sequences_and_maps_count_every_position():
    output = RNG.normal(size=(4, 3, 5, 6)).astype(np.float32)
    labels = RNG.integers(0, 3, (4, 5, 6))
    first = classify(output, labels)
    assert (output.argmax(1) == labels).mean() == first.score
    assert first.samples == 120
    assert first == classify(np.moveaxis(output, 1, -1), labels, axis=3)
    trailing = classify(output[:, :, :1, :1], labels[:, 0, 0])
    assert trailing.samples == 4


def test_an_output_of_class_numbers():
    got = classify(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 3]), axis=None)
    assert (0.5, None) == (got.score, got.top5)
    assert [1, 2, 0, 1] == [one.samples for one in got.per_class]


def test_large_vocabularies_leave_out_what_would_swell_the_report():
    labels = np.zeros(2, int)
    some = classify(np.zeros((2, CONFUSION_CLASSES + 1), np.float32), labels)
    assert (0, CONFUSION_CLASSES + 1) == (len(some.confusion), len(some.per_class))
    many = classify(np.zeros((2, PER_CLASS + 1), np.float32), labels)
    assert (0, 0, 1.0) == (len(many.confusion), len(many.per_class), many.score)


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        (np.array([0, 10]), "label 10 of sample 1; the output has 10 classes"),
        (np.array([0.0, 1.0]), "classes are integers"),
        (np.zeros((2, 3), int), "shape (2, 3)"),
    ],
)
def test_labels_that_do_not_fit(labels, part):
    with pytest.raises(EspalierError) as caught:
        classify(np.zeros((2, 10), np.float32), labels)
    assert caught.value.code == "labels_invalid"
    assert part in caught.value.failure.detail


@pytest.mark.parametrize("kind", ["classification", "binary", "regression", "fidelity"])
def test_nan_is_no_answer(kind):
    output = np.array([[0.0], [np.nan]])
    task = Task(kind, "y", 1 if kind == "classification" else None)
    with pytest.raises(EspalierError) as caught:
        score(task, {"y": output}, np.zeros(2, int), {"y": np.zeros((2, 1))})
    assert caught.value.code == "model_does_not_run"
    assert "sample 1" in caught.value.failure.detail


# ---- binary


def binary(output: np.ndarray, labels: np.ndarray, reference=None, **options) -> BinaryScore:
    other = None if reference is None else {"y": reference}
    got = score(Task("binary", "y", **options), {"y": output}, labels, other)
    assert isinstance(got, BinaryScore)
    return got


def test_binary_agrees_with_scikit_learn():
    logits = RNG.normal(size=(300, 1))
    labels = RNG.integers(0, 2, 300)
    probabilities = 1 / (1 + np.exp(-logits))
    for threshold in (0.2, 0.5, 0.9):
        said = probabilities[:, 0] > threshold
        got = binary(logits, labels, threshold=threshold)
        assert got == binary(probabilities, labels, link="probabilities", threshold=threshold)
        assert metrics.accuracy_score(labels, said) == got.score
        assert metrics.precision_score(labels, said) == got.precision
        assert metrics.recall_score(labels, said) == got.recall
        assert metrics.confusion_matrix(labels, said).tolist() == [list(row) for row in got.confusion]


def test_binary_without_a_positive_has_no_precision():
    got = binary(np.array([-1.0, -1.0]), np.array([0, 0]))
    assert (1.0, None, None) == (got.score, got.precision, got.recall)


def test_several_independent_answers_and_agreement():
    output = np.array([[1.0, -1.0], [1.0, 1.0]])
    got = binary(output, np.array([[True, False], [False, True]]), reference=-output)
    assert (4, 0.75, 0.0) == (got.samples, got.score, got.agreement)


# ---- regression and fidelity


def test_regression_agrees_with_scikit_learn():
    labels = 1e6 + RNG.normal(size=(500, 3))  # far from zero: naive sums of squares would lose every digit
    output = labels + 0.1 * RNG.normal(size=(500, 3))
    got = score(Task("regression", "y"), {"y": output}, labels, None)
    assert isinstance(got, RegressionScore)
    assert got.mse == pytest.approx(metrics.mean_squared_error(labels, output))
    assert got.mae == pytest.approx(metrics.mean_absolute_error(labels, output))
    want = metrics.r2_score(labels, output, multioutput="variance_weighted")
    assert got.score == pytest.approx(want, rel=1e-6)


def test_regression_on_constant_labels():
    task = Task("regression", "y")
    assert score(task, {"y": np.ones((3, 1))}, np.ones(3), None).score == 1.0
    assert score(task, {"y": np.zeros((3, 1))}, np.ones(3), None).score == 0.0


def test_fidelity_with_and_without_classes():
    meant = RNG.normal(size=(50, 4))
    ours = meant + 0.5 * RNG.normal(size=(50, 4))
    want = float(np.sqrt(((ours - meant) ** 2).sum() / (meant**2).sum()))
    plain = score(Task("fidelity", "y"), {"y": ours}, None, {"y": meant})
    assert isinstance(plain, FidelityScore)
    assert plain.relative_error == pytest.approx(want)
    assert (None, pytest.approx(1 - want)) == (plain.agreement, plain.score)
    classes = score(Task("fidelity", "y", 1), {"y": ours}, None, {"y": meant})
    assert float((ours.argmax(1) == meant.argmax(1)).mean()) == classes.score
    same = score(Task("fidelity", "y"), {"y": meant}, None, {"y": meant})
    assert (1.0, 0.0) == (same.score, same.relative_error if isinstance(same, FidelityScore) else None)


def test_cross_entropy_agrees_with_scikit_learn():
    logits = RNG.normal(size=(300, 10)).astype(np.float32)
    labels = RNG.integers(0, 10, 300)
    chances = np.exp(logits.astype(np.float64))
    chances /= chances.sum(1, keepdims=True)
    expected = metrics.log_loss(labels, chances, labels=range(10))
    assert classify(logits, labels).loss == pytest.approx(expected)
    of_chances = score(Task("classification", "y", 1, "probabilities"), {"y": chances}, labels, None)
    assert of_chances.loss == pytest.approx(expected)
    assert classify(chances, labels).loss != pytest.approx(expected, rel=0.01)  # the link counts
    assert classify(labels, labels, None).loss is None


def test_cross_entropy_of_yes_and_no_agrees_too():
    odds = RNG.normal(size=(300, 1)).astype(np.float32)
    labels = RNG.integers(0, 2, 300)
    chances = 1 / (1 + np.exp(-odds.astype(np.float64)))
    expected = metrics.log_loss(labels, chances[:, 0])
    for link, output in (("logits", odds), ("probabilities", chances)):
        assert score(Task("binary", "y", link=link), {"y": output}, labels, None).loss == pytest.approx(expected)
    assert score(Task("binary", "y"), {"y": odds > 0}, labels, None).loss is None


def test_certain_and_wrong_is_a_finite_loss():
    sure = np.array([[0.0, 1.0]])
    found = score(Task("classification", "y", 1, "probabilities"), {"y": sure}, np.array([0]), None).loss
    assert found == pytest.approx(-np.log(1e-12))
    assert np.isfinite(classify(np.array([[0.0, 1e30]], np.float32), np.array([0])).loss)
