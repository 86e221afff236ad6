"""From a model's raw output to answers that can be counted: class numbers, labels of the same shape, hits.

In: one batch's output, its labels, the `Task`. Out: arrays (samples, positions), and counts. Refused: outputs that are
NaN (`model_does_not_run`), labels that do not match the answers (`labels_invalid`).
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from schemas.errors import EspalierError
from schemas.report import ClassAccuracy
from worker.engine.evaluate.task import Link, Task

Array: TypeAlias = NDArray[np.generic]
Indices: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]

CONFUSION_CLASSES = 256  # a square of more would outweigh the rest of the report
PER_CLASS = 4096
TINY = 1e-12  # a probability below it counts as it: one confident mistake leaves the loss finite


def numbers(output: Array, task: Task) -> Array:
    if output.dtype.kind == "f" and np.isnan(output).any():
        at = int(np.argwhere(np.isnan(output))[0][0])
        detail = f"output {task.output!r} is NaN for sample {at} of a batch"
        hint = "Run the model on your data; a wrong preprocess is the usual cause."
        raise EspalierError("model_does_not_run", detail, where="evaluation", hint=hint)
    return output


def by_class(output: Array, task: Task) -> Array | None:
    """Scores as (samples, classes, positions); None where the output holds class numbers."""
    if task.class_axis is None:
        return None
    moved = np.moveaxis(numbers(output, task), task.class_axis, 1)
    return moved.reshape(moved.shape[0], moved.shape[1], -1)


def predictions(scores: Array | None, task: Task, output: Array) -> Indices:
    """Class numbers as (samples, positions)."""
    if scores is None:
        return np.asarray(numbers(output, task), np.int64).reshape(len(output), -1)
    return np.asarray(scores.argmax(1), np.int64)


def given(labels: Array | None) -> Array:
    assert labels is not None  # no task but fidelity is resolved without labels
    return labels


def flat_labels(labels: Array | None, shape: tuple[int, ...], task: Task) -> Indices:
    truth = given(labels)
    if truth.dtype.kind == "f":
        raise EspalierError("labels_invalid", f"the labels are {truth.dtype}; classes are integers", where="labels")
    flat = truth.astype(np.int64).reshape(len(truth), -1)
    if flat.shape != shape:
        raise shape_mismatch(truth.shape, shape, task)
    return flat


def shape_mismatch(labels: tuple[int, ...], shape: tuple[int, ...], task: Task) -> EspalierError:
    detail = f"the labels of a batch have shape {labels}; output {task.output!r} gives {shape} answers"
    return EspalierError("labels_invalid", detail, where="labels")


def cross_entropy(scores: Array, labels: Indices, link: Link) -> float:
    """The sum over samples and positions, in nats. Probabilities that do not add up to one count as shares."""
    wide = scores.astype(np.float64)
    own = np.take_along_axis(wide, labels[:, None, :], axis=1)[:, 0]
    if link == "probabilities":
        share = own / np.maximum(wide.clip(min=0).sum(1), TINY)
        return float(-np.log(share.clip(TINY, 1.0)).sum())
    most = wide.max(1)
    with np.errstate(invalid="ignore"):  # of infinite scores the loss is not a number, and said so by nothing else
        return float((most + np.log(np.exp(wide - most[:, None]).sum(1)) - own).sum())


def yes_no_entropy(answers: Array, labels: Indices, link: Link) -> float:
    """The same where one number says yes or no."""
    wide = answers.astype(np.float64)
    if link == "logits":
        return float((np.logaddexp(0.0, wide) - labels * wide).sum())
    chance = np.where(labels == 1, wide, 1 - wide)
    return float(-np.log(chance.clip(TINY, 1.0)).sum())


def top5_hits(scores: Array, labels: Indices) -> int:
    """Positions whose label is among the five highest scores; of equal scores the lower class number comes first."""
    own = np.take_along_axis(scores, labels[:, None, :], axis=1)
    classes = np.arange(scores.shape[1])[None, :, None]
    ahead = (scores > own) | ((scores == own) & (classes < labels[:, None, :]))  # type: ignore[operator]
    return int((ahead.sum(1) < 5).sum())


def per_class(labels: Indices, right: Flags, classes: int) -> tuple[ClassAccuracy, ...]:
    if classes > PER_CLASS:
        return ()
    samples = np.bincount(labels, minlength=classes).tolist()
    hits = np.bincount(labels[right], minlength=classes).tolist()
    return tuple(
        ClassAccuracy(label=label, samples=count, accuracy=hit / count if count else None)
        for label, (count, hit) in enumerate(zip(samples, hits, strict=True))
    )


def confusion(labels: Indices, predicted: Indices, classes: int) -> tuple[tuple[int, ...], ...]:
    if classes > CONFUSION_CLASSES:
        return ()
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return tuple(map(tuple, counts.reshape(classes, classes).tolist()))
