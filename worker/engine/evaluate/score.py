"""Scores a model's outputs against labels, or against the uploaded model's own outputs.

In: a `Task`, outputs, labels, the uploaded model's outputs. Out: a `Score`. Refused: labels that are out of range or do
not match the outputs that were computed (`labels_invalid`), outputs that are NaN (`model_does_not_run`).

Everything is tallied batch by batch: maps of class scores for thousands of images never stand in memory together.
"""

from collections.abc import Mapping, Sequence
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
    task: Task, before: Session, afters: Sequence[Session], samples: Samples, batch: int | None
) -> tuple[Score, tuple[Score, ...]]:
    """All models over the same samples in step: the uploaded one's score, and those of what became of it."""
    first, tallies = _tally(task), [_tally(task) for _ in afters]
    names = (task.output,)
    others = [run_batches(one, samples, batch, names) for one in afters]
    for part, found in run_batches(before, samples, batch, names):
        output = found[task.output]
        first.add(output, part.labels, output if task.kind == "fidelity" else None)
        for tally, other in zip(tallies, others, strict=True):
            tally.add(next(other)[1][task.output], part.labels, output)
    return first.result(), tuple(tally.result() for tally in tallies)


def _tally(task: Task) -> Tally:
    tallies: dict[str, type[Tally]] = {
        "classification": Classification,
        "binary": Binary,
        "regression": Regression,
        "fidelity": Fidelity,
    }
    return tallies[task.kind](task)  # type: ignore[call-arg]  # a Protocol says nothing of constructors
