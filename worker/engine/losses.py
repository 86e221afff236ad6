"""The loss that criteria ask about: cross-entropy or squared error of the judged output.

In: the task (`evaluate.task`), the wish of the options. Out: `Loss`: targets from labels, and the loss of each sample.
Without labels the target is the model's own answer, so that the loss measures how far a change moves it. Refused: a
loss that does not fit the task, outputs that hold class numbers (`evaluation_invalid`).
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F

from schemas.errors import EspalierError
from worker.engine.evaluate.task import SIGMOID, Labels, Task, check_range
from worker.engine.graph import Graph, Op
from worker.engine.ops import RULES
from worker.engine.ties import Seen

Wish = Literal["auto", "squared_error", "cross_entropy"]
# What the tensor holds: scores or probabilities of classes along an axis, the same for single events, or any numbers.
Form = Literal["logits", "classes", "log_odds", "chances", "numbers"]
TINY = 1e-12  # a probability below it counts as it: the loss stays finite


@dataclass(frozen=True)
class Loss:
    """`tensor` is the judged output, or what the ArgMax behind it reads. `axis`: of the classes, where there are."""

    tensor: str
    kind: Literal["squared_error", "cross_entropy"]
    form: Form
    axis: int | None
    labelled: bool

    def target(self, values: torch.Tensor, labels: Labels | None) -> torch.Tensor:
        """What the values should say, shaped as they are: one-hot rows, yes and no, numbers."""
        if not self.labelled:
            return self._said(values)
        assert labels is not None, "a task that needs labels was resolved with them"
        if self.axis is None:
            return torch.from_numpy(labels.astype("float64")).to(values).reshape(values.shape)
        classes = values.shape[self.axis]
        check_range(labels, classes)
        shape = [size for axis, size in enumerate(values.shape) if axis != self.axis]
        numbers = torch.from_numpy(labels.astype("int64")).to(values.device).reshape(shape)
        return F.one_hot(numbers, classes).movedim(-1, self.axis).to(values.dtype)

    def each(self, values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of each sample: (samples,). The mean over a sample's positions."""
        if self.kind == "squared_error":
            lost = (self._said(values) - target).square()
        elif self.form == "logits":
            lost = -target * torch.log_softmax(values, dim=self.axis or 0)
        elif self.form == "classes":
            lost = -target * values.clamp_min(TINY).log()
        elif self.form == "log_odds":
            lost = F.softplus(values) - target * values
        else:
            sure, unsure = values.clamp_min(TINY), (1 - values).clamp_min(TINY)
            lost = -target * sure.log() - (1 - target) * unsure.log()
        return lost.reshape(len(lost), -1).sum(dim=1) / self._positions(values)

    def _said(self, values: torch.Tensor) -> torch.Tensor:
        """Probabilities where the tensor holds scores, else the values."""
        if self.form == "logits":
            return torch.softmax(values, dim=self.axis or 0)
        return torch.sigmoid(values) if self.form == "log_odds" else values

    def _positions(self, values: torch.Tensor) -> int:
        return max(prod(size for axis, size in enumerate(values.shape) if axis not in (0, self.axis)), 1)


def resolve_loss(wish: Wish, task: Task, graph: Graph, seen: Seen) -> Loss:
    """The loss for a task. `auto`: cross-entropy where classes or yes and no are told apart, else squared error."""
    tensor, axis = task.output, task.class_axis
    chooser = graph.producer.get(tensor)
    if chooser is not None and chooser.key == "ArgMax":
        tensor = chooser.inputs[0]
        axis = chooser.integer("axis", 0) % len(seen.shapes[tensor])
    if graph.sample_axes.get(task.output):
        raise EspalierError(
            "evaluation_invalid",
            f"output {task.output!r} counts samples on another axis than the first, which losses need",
            where="options.evaluation",
            hint="Judge another output (evaluation.output), or use a criterion that needs no loss.",
        )
    if seen.dtypes[tensor].kind != "f":
        raise EspalierError(
            "evaluation_invalid",
            f"output {task.output!r} holds class numbers, whose loss does not change bit by bit",
            where="options.evaluation",
            hint="Judge an output of scores (evaluation.output), or use a criterion that needs no loss.",
        )
    form = _form(graph.producer.get(_source(graph, tensor)), task, axis)
    kind = wish if wish != "auto" else ("squared_error" if form == "numbers" else "cross_entropy")
    if kind == "cross_entropy" and form == "numbers":
        raise EspalierError(
            "evaluation_invalid",
            f"cross-entropy is for classes, and output {task.output!r} is judged as {task.kind}",
            where="/criterion/loss",
            hint='Use loss: "squared_error" or "auto", or name the classes with evaluation.task and class_axis.',
        )
    return Loss(tensor, kind, form, axis, task.kind != "fidelity")


def _form(maker: Op | None, task: Task, axis: int | None) -> Form:
    key = maker.key if maker is not None else ""
    if task.kind == "binary":
        return "log_odds" if task.link == "logits" else "chances"
    if axis is None or task.kind == "regression":
        return "numbers"
    return "classes" if key == "Softmax" else "chances" if key in SIGMOID else "logits"


def _source(graph: Graph, tensor: str) -> str:
    """Back through what only reshapes."""
    while (op := graph.producer.get(tensor)) is not None:
        rule = RULES.get(op.key)
        if rule is None or not rule.passes:
            return tensor
        tensor = op.inputs[0]
    return tensor
