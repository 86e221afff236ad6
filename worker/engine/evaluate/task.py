"""Decides what is judged: the task, the output, the axis of the classes.

In: `options.evaluation`, what is known of the model's outputs, the labels. Out: `Task`. Decided from the last operator
and from the type and shape of the labels, never from the outputs' values. Refused: options that do not fit the outputs
(`evaluation_invalid`), labels that do not fit the task (`labels_invalid`), with the shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schemas.errors import EspalierError, nearest
from schemas.request import Evaluation

Kind: TypeAlias = Literal["classification", "binary", "regression", "fidelity"]
Labels: TypeAlias = NDArray[np.generic]
Link: TypeAlias = Literal["logits", "probabilities"]

SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
SIGMOID = frozenset({"Sigmoid", "HardSigmoid"})
INDEPENDENT = SIGMOID | {"Tanh", "Relu"}
WHERE = "options.evaluation"


@dataclass(frozen=True)
class OutputInfo:
    """One output of the model: its shape as run (batch first; None where unknown) and the operator that made it."""

    name: str
    shape: tuple[int | None, ...]
    op_type: str = ""
    axis: int | None = None  # of a Softmax, as the node says
    integers: bool = False  # class numbers rather than scores

    def without(self, axis: int) -> tuple[int | None, ...]:
        return tuple(dim for i, dim in enumerate(self.shape) if i != axis)


@dataclass(frozen=True)
class Task:
    """What is judged, decided."""

    kind: Kind
    output: str
    class_axis: int | None = None  # None in a classification: the output holds class numbers
    link: Link = "logits"
    threshold: float = 0.5


def resolve_task(evaluation: Evaluation, outputs: Sequence[OutputInfo], labels: Labels | None) -> Task:
    """The task that the options ask for, or that the output and the labels suggest."""
    out = _chosen(evaluation, outputs)
    given = _given_axis(evaluation, out)
    if labels is None:
        if evaluation.task not in ("auto", "fidelity"):
            detail = f"the task {evaluation.task!r} needs labels, and there are none"
            hint = "Add an array `labels` to the data, or leave the task out: fidelity needs none."
            raise EspalierError("labels_invalid", detail, where=WHERE, hint=hint)
        return Task("fidelity", out.name, given if given is not None else _likely_axis(out))
    kind = evaluation.task if evaluation.task != "auto" else _infer(out, labels, given)
    if kind == "classification":
        return _classification(out, labels, given, evaluation)
    if kind == "binary":
        return _binary(out, labels, evaluation)
    if kind == "regression":
        _check_same(out, labels, "regression")
        return Task("regression", out.name)
    return Task("fidelity", out.name, given if given is not None else _likely_axis(out))


def _chosen(evaluation: Evaluation, outputs: Sequence[OutputInfo]) -> OutputInfo:
    if evaluation.output is None:
        return outputs[0]
    for out in outputs:
        if out.name == evaluation.output:
            return out
    names = tuple(out.name for out in outputs)
    detail = f"the model has no output {evaluation.output!r}; {nearest(evaluation.output, names)}"
    raise EspalierError("evaluation_invalid", detail, where=f"{WHERE}.output")


def _given_axis(evaluation: Evaluation, out: OutputInfo) -> int | None:
    axis, rank = evaluation.class_axis, len(out.shape)
    if axis is None:
        return None
    if not -rank <= axis < rank or axis % rank == 0:
        detail = f"class_axis {axis} is no axis of output {out.name!r}, which has shape {list(out.shape)}"
        hint = "Axis 0 holds the samples; the classes are on another."
        raise EspalierError("evaluation_invalid", detail, where=f"{WHERE}.class_axis", hint=hint)
    return axis % rank


def _likely_axis(out: OutputInfo) -> int | None:
    """Where the classes of an unlabelled model are: a Softmax says so; scores of shape (samples, classes) are classes.

    Numbers that a Sigmoid, Tanh or Relu has made are independent of each other, not one choice among many.
    """
    rank = len(out.shape)
    if out.integers or rank < 2 or out.op_type in INDEPENDENT:
        return None
    wide = [i for i, dim in enumerate(out.shape) if i and dim != 1]
    if len(wide) == 1:
        return wide[0]
    if wide and out.op_type in SOFTMAX:
        return (out.axis if out.axis is not None else -1) % rank or None
    return None


def _infer(out: OutputInfo, labels: Labels, given: int | None) -> Kind:
    whole = labels.dtype.kind in "iub"
    same = _matches(labels.shape, out.shape)
    if out.integers:
        return "classification" if whole else "fidelity"
    if whole and (given is not None or _class_axis(out, labels) is not None):
        return "classification"
    if same:
        _refuse_one_hot(out, labels)
        if out.op_type in SIGMOID or labels.dtype.kind == "b" or (whole and _zero_one(labels)):
            return "binary" if whole else "regression"
        return "regression"
    if not whole and _class_axis(out, labels) is not None:
        _refuse_floats(labels)
    raise _mismatch(out, labels, "")


def _class_axis(out: OutputInfo, labels: Labels) -> int | None:
    """The axis that the labels lack: axis 1 where it can be, else the last."""
    rank = len(out.shape)
    for axis in dict.fromkeys((1, rank - 1)):
        if 0 < axis < rank and out.shape[axis] != 1 and _matches(labels.shape, out.without(axis)):
            return axis
    return None


def _classification(out: OutputInfo, labels: Labels, given: int | None, evaluation: Evaluation) -> Task:
    if labels.dtype.kind == "f":
        _refuse_floats(labels)
    if out.integers:
        _check_same(out, labels, "classification")
        return Task("classification", out.name)
    axis = given if given is not None else _class_axis(out, labels)
    if axis is None or not _matches(labels.shape, out.without(axis)):
        if _matches(labels.shape, out.shape):
            _refuse_one_hot(out, labels)
        raise _mismatch(out, labels, " for a classification")
    classes = out.shape[axis]
    if classes is not None:
        check_range(labels, classes)
    return Task("classification", out.name, axis, _link(out, evaluation))


def _binary(out: OutputInfo, labels: Labels, evaluation: Evaluation) -> Task:
    _check_same(out, labels, "binary")
    if labels.dtype.kind == "f":
        _refuse_floats(labels)
    check_range(labels, 2)
    return Task("binary", out.name, link=_link(out, evaluation), threshold=evaluation.threshold)


def _link(out: OutputInfo, evaluation: Evaluation) -> Link:
    """What the numbers are. Logarithms of probabilities are logits like any others."""
    probable = out.op_type in SIGMOID | {"Softmax"}
    return evaluation.from_ or ("probabilities" if probable else "logits")


def check_range(labels: Labels, classes: int) -> None:
    """Refuses labels outside 0 to classes - 1, naming the first."""
    wrong = (labels < 0) | (labels >= classes)  # type: ignore[operator]  # integers or booleans by now
    if not np.any(wrong):
        return
    at = np.argwhere(wrong)[0]
    detail = f"label {labels[tuple(at)]} of sample {at[0]}; the output has {classes} classes, 0 to {classes - 1}"
    counted = labels.min() == 1 and labels.max() == classes
    hint = "The labels count from 1: subtract 1." if counted else "Send class numbers that count from 0."
    raise EspalierError("labels_invalid", detail, where="labels", hint=hint)


def _check_same(out: OutputInfo, labels: Labels, task: str) -> None:
    if not _matches(labels.shape, out.shape):
        raise _mismatch(out, labels, f" for the task {task!r}, one number for each label")


def _mismatch(out: OutputInfo, labels: Labels, why: str) -> EspalierError:
    detail = f"the labels have shape {labels.shape} and output {out.name!r} has {list(out.shape)}: no match{why}"
    return EspalierError("labels_invalid", detail, where="labels")


def _refuse_floats(labels: Labels) -> None:
    detail = f"the labels are {labels.dtype}; classes are integers"
    raise EspalierError("labels_invalid", detail, where="labels", hint="Send labels.astype('int64').")


def _refuse_one_hot(out: OutputInfo, labels: Labels) -> None:
    """One-hot labels would pass for yes/no answers or for a regression, and be judged as something else."""
    if labels.ndim < 2 or labels.shape[-1] < 2 or not _zero_one(labels) or not np.all(labels.sum(-1) == 1):
        return
    detail = f"the labels of shape {labels.shape} are one-hot rows for output {out.name!r}"
    hint = 'Send class numbers, labels.argmax(-1), or say evaluation.task: "binary" or "regression".'
    raise EspalierError("labels_invalid", detail, where="labels", hint=hint)


def _zero_one(labels: Labels) -> bool:
    return bool(np.all((labels == 0) | (labels == 1)))


def _matches(labels: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    """Whether shapes agree after the samples' axis, axes of length 1 left aside and unknown ones free."""
    want = [dim for dim in shape[1:] if dim != 1]
    got = [dim for dim in labels[1:] if dim != 1]
    return len(want) == len(got) and all(a is None or a == b for a, b in zip(want, got, strict=True))
