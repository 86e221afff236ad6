"""One pruning of the accuracy benchmark, through the engine: its report, and what it took.

In: a network of the data folder, its samples, options. Out: `Done`.
"""

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy_data import Material
from benchmarks.papers.bench import input_file
from schemas.report import Report, Score
from schemas.request import parse_options
from worker.engine.run import Inputs, Limits, prune

MEMORY = 1 << 33


@dataclass(frozen=True)
class Done:
    report: Report
    folder: Path
    seconds: float
    cpu: float


def job(model: Path, given: Material, options: Mapping[str, object], work: Path) -> Done:
    """The files of the result lie in a folder of its own in `work`."""
    folder = Path(tempfile.mkdtemp(dir=work))
    request = parse_options({"preprocess": given.preprocess, **options})
    inputs = Inputs(input_file(model), {}, input_file(given.calibration), input_file(given.evaluation))
    start, cpu = time.perf_counter(), time.process_time()
    report = prune(request, inputs, folder, Limits(os.cpu_count() or 1, MEMORY), lambda _: None)
    return Done(report, folder, time.perf_counter() - start, time.process_time() - cpu)


def points(score: Score | None) -> float:
    """An accuracy in points."""
    assert score is not None, "the benchmark has an evaluation file"
    return 100 * score.score


def lost(report: Report) -> float:
    return points(report.before.accuracy) - points(report.after.accuracy)
