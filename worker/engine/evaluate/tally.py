"""Counts answers batch by batch and gives a score: one class for each task.

In: a batch's output, its labels, the uploaded model's output on it. Out: the `Score` of all batches. Refused: labels
out of range or of another shape than the answers (`labels_invalid`).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schemas.report import BinaryScore, ClassificationScore, FidelityScore, RegressionScore
from worker.engine.evaluate.answers import (
    Array,
    Flags,
    Indices,
    by_class,
    confusion,
    cross_entropy,
    flat_labels,
    given,
    numbers,
    per_class,
    predictions,
    shape_mismatch,
    top5_hits,
    yes_no_entropy,
)
from worker.engine.evaluate.task import Task, check_range

TOP5_FROM = 6


@dataclass
class Classification:
    """Top-1, top-5, per class, confusion; every position of a sequence or map counts as one."""

    task: Task
    classes: int = 0
    labels: list[Indices] = field(default_factory=list)
    predicted: list[Indices] = field(default_factory=list)
    reference: list[Indices] = field(default_factory=list)
    in_top5: int = 0
    loss: float = 0.0

    def add(self, output: Array, labels: Array | None, reference: Array | None) -> None:
        scores = by_class(output, self.task)
        predicted = predictions(scores, self.task, output)
        truth = flat_labels(labels, predicted.shape, self.task)
        if scores is not None:
            self.classes = scores.shape[1]
            check_range(truth, self.classes)
            self.in_top5 += top5_hits(scores, truth)
            self.loss += cross_entropy(scores, truth, self.task.link)
        else:
            self.classes = max(self.classes, int(predicted.max()) + 1, int(truth.max()) + 1)
        self.predicted.append(predicted.ravel())
        self.labels.append(truth.ravel())
        if reference is not None:
            self.reference.append(predictions(by_class(reference, self.task), self.task, reference).ravel())

    def result(self) -> ClassificationScore:
        labels, predicted = np.concatenate(self.labels), np.concatenate(self.predicted)
        right = predicted == labels
        top5 = self.task.class_axis is not None and self.classes >= TOP5_FROM
        return ClassificationScore(
            samples=len(labels),
            score=float(right.mean()),
            top5=self.in_top5 / len(labels) if top5 else None,
            per_class=per_class(labels, right, self.classes),
            confusion=confusion(labels, predicted, self.classes),
            agreement=float((np.concatenate(self.reference) == predicted).mean()) if self.reference else None,
            loss=self.loss / len(labels) if self.task.class_axis is not None else None,
        )


@dataclass
class Binary:
    """One yes/no answer for each label."""

    task: Task
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 2), np.int64))
    agreed: int = 0
    compared: int = 0
    loss: float = 0.0
    scored: bool = True  # the output is a number, not a bare yes or no

    def add(self, output: Array, labels: Array | None, reference: Array | None) -> None:
        said = self._positive(output)
        truth = flat_labels(labels, said.shape, self.task)
        check_range(truth, 2)
        if output.dtype.kind == "f":
            self.loss += yes_no_entropy(output.reshape(said.shape), truth, self.task.link)
        self.scored = self.scored and output.dtype.kind == "f"
        np.add.at(self.counts, (truth.ravel(), said.astype(np.int64).ravel()), 1)
        if reference is not None:
            self.agreed += int((said == self._positive(reference)).sum())
            self.compared += said.size

    def _positive(self, output: Array) -> Flags:
        answers = numbers(output, self.task).astype(np.float64).reshape(len(output), -1)
        threshold = self.task.threshold
        if self.task.link == "logits":
            threshold = float(np.log(threshold / (1 - threshold)))
        return np.asarray(answers > threshold)

    def result(self) -> BinaryScore:
        (true_no, false_yes), (false_no, true_yes) = self.counts.tolist()
        total = int(self.counts.sum())
        return BinaryScore(
            samples=total,
            score=(true_no + true_yes) / total,
            precision=true_yes / (true_yes + false_yes) if true_yes + false_yes else None,
            recall=true_yes / (true_yes + false_no) if true_yes + false_no else None,
            confusion=((true_no, false_yes), (false_no, true_yes)),
            agreement=self.agreed / self.compared if self.compared else None,
            loss=self.loss / total if self.scored else None,
        )


@dataclass
class Regression:
    """Errors in the labels' own unit; R squared around each output's mean."""

    task: Task
    samples: int = 0
    values: int = 0
    squared: float = 0.0
    absolute: float = 0.0
    origin: NDArray[np.float64] | None = None  # the first label: sums of squares around it keep their digits
    shifted: NDArray[np.float64] | None = None
    shifted_squares: NDArray[np.float64] | None = None

    def add(self, output: Array, labels: Array | None, reference: Array | None) -> None:  # noqa: ARG002
        answers = numbers(output, self.task).astype(np.float64).reshape(len(output), -1)
        truth = given(labels).astype(np.float64).reshape(len(output), -1)
        if truth.shape != answers.shape:
            raise shape_mismatch(truth.shape, answers.shape, self.task)
        difference = answers - truth
        self.samples += len(answers)
        self.values += answers.size
        self.squared += float((difference**2).sum())
        self.absolute += float(np.abs(difference).sum())
        if self.origin is None or self.shifted is None or self.shifted_squares is None:
            self.origin = truth[0]
            self.shifted = np.zeros_like(truth[0])
            self.shifted_squares = np.zeros_like(truth[0])
        self.shifted += (truth - self.origin).sum(0)
        self.shifted_squares += ((truth - self.origin) ** 2).sum(0)

    def result(self) -> RegressionScore:
        assert self.shifted is not None and self.shifted_squares is not None  # noqa: PT018  # add() came first
        spread = float((self.shifted_squares - self.shifted**2 / self.samples).sum())
        # Labels that never change leave nothing to explain: right everywhere is 1, anything else 0.
        share = 1 - self.squared / spread if spread > 0 else float(self.squared == 0)
        return RegressionScore(
            samples=self.samples, score=share, mse=self.squared / self.values, mae=self.absolute / self.values
        )


@dataclass
class Fidelity:
    """How close the outputs are to the uploaded model's."""

    task: Task
    samples: int = 0
    agreed: int = 0
    compared: int = 0
    squared: float = 0.0
    original: float = 0.0

    def add(self, output: Array, labels: Array | None, reference: Array | None) -> None:  # noqa: ARG002
        assert reference is not None  # fidelity is to something
        ours, theirs = numbers(output, self.task), numbers(reference, self.task)
        self.samples += len(output)
        if self.task.class_axis is not None or output.dtype.kind in "iub":
            said = predictions(by_class(output, self.task), self.task, output)
            meant = predictions(by_class(reference, self.task), self.task, reference)
            self.agreed += int((said == meant).sum())
            self.compared += said.size
        difference = ours.astype(np.float64) - theirs.astype(np.float64)
        self.squared += float((difference**2).sum())
        self.original += float((theirs.astype(np.float64) ** 2).sum())

    def result(self) -> FidelityScore:
        # An original of zeros has no scale of its own; the error then counts as it is.
        relative = float(np.sqrt(self.squared / self.original if self.original else self.squared))
        agreement = self.agreed / self.compared if self.compared else None
        return FidelityScore(
            samples=self.samples,
            score=agreement if agreement is not None else 1 - relative,
            agreement=agreement,
            relative_error=relative,
        )
