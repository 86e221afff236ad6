"""Scores a model's outputs against labels, or against the uploaded model's own outputs.

In: a `Task`, outputs, labels, the uploaded model's outputs. Out: a `Score`. Refused: labels that are out of range or do
not match the outputs that were computed (`labels_invalid`), outputs that are NaN (`model_does_not_run`).

Everything is tallied batch by batch: maps of class scores for thousands of images never stand in memory together.
"""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schemas.report import Score
from worker.engine.data import Samples
from worker.engine.evaluate.runtime import Session, run_batches
from worker.engine.evaluate.tally import Binary, Classification, Fidelity, Regression
from worker.engine.evaluate.task import Task
from worker.engine.shelf import IN_MEMORY, Shelf

Array: TypeAlias = NDArray[np.generic]


class Tally(Protocol):
    """Counts batches, then gives the score."""

    def add(self, output: Array, labels: Array | None, reference: Array | None) -> None: ...

    def result(self) -> Score: ...


def score(
    task: Task, outputs: Mapping[str, Array], labels: Array | None, reference_outputs: Mapping[str, Array] | None
) -> Score:
    """The score of outputs that are already there."""
    tally = _tally(task)
    reference = None if reference_outputs is None else reference_outputs[task.output]
    tally.add(outputs[task.output], labels, reference)
    return tally.result()


class Reference:
    """The uploaded model's answers to samples, batch by batch and on the shelf where they are large, and its score. So
    what became of it can be judged when the uploaded model is no longer held."""

    def __init__(
        self, task: Task, before: Session, samples: Samples, batch: int | None, shelf: Shelf = IN_MEMORY
    ) -> None:
        self.task, self.samples, self.batch = task, samples, batch
        self.answers: list[Array] = []
        tally = _tally(task)
        for part, found in run_batches(before, samples, batch, (task.output,)):
            output = shelf.keep(found[task.output])
            tally.add(output, part.labels, output if task.kind == "fidelity" else None)
            self.answers.append(output)
        self.score = tally.result()

    def judge(self, after: Session) -> Score:
        """The score of what became of it, over the same samples."""
        tally = _tally(self.task)
        parts = run_batches(after, self.samples, self.batch, (self.task.output,))
        for (part, found), answer in zip(parts, self.answers, strict=True):
            tally.add(found[self.task.output], part.labels, answer)
        return tally.result()


def _tally(task: Task) -> Tally:
    tallies: dict[str, type[Tally]] = {
        "classification": Classification,
        "binary": Binary,
        "regression": Regression,
        "fidelity": Fidelity,
    }
    return tallies[task.kind](task)  # type: ignore[call-arg]  # a Protocol says nothing of constructors
