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


def judge(
    task: Task, before: Session, after: Session | None, samples: Samples, batch: int | None
) -> tuple[Score, Score | None]:
    """Both models over the same samples in step: the uploaded one's score, and the pruned one's beside it."""
    first, second = _tally(task), _tally(task)
    names = (task.output,)
    others = run_batches(after, samples, batch, names) if after is not None else None
    for part, found in run_batches(before, samples, batch, names):
        output = found[task.output]
        first.add(output, part.labels, output if task.kind == "fidelity" else None)
        if others is not None:
            second.add(next(others)[1][task.output], part.labels, output)
    return first.result(), second.result() if after is not None else None


def _tally(task: Task) -> Tally:
    tallies: dict[str, type[Tally]] = {
        "classification": Classification,
        "binary": Binary,
        "regression": Regression,
        "fidelity": Fidelity,
    }
    return tallies[task.kind](task)  # type: ignore[call-arg]  # a Protocol says nothing of constructors
