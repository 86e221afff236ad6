"""The values that one stage of a job hands to the next, and the clock that tells the caller where the job stands."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from schemas.job import Progress
from schemas.report import Exactness, FinishingStep, Score, StageTiming, Stored
from schemas.request import PruneRequest
from worker.engine.axes import Analysis, Group
from worker.engine.compensate import Done
from worker.engine.cost import Gone
from worker.engine.data import Samples
from worker.engine.graph import Array, Graph
from worker.engine.load import Loaded
from worker.engine.refit.reconstruct import Unfitted
from worker.engine.refit.walk import Refit
from worker.engine.sensitivity import Sensitivities

Emit = Callable[[Progress], None]

# Where each stage ends on the way from 0 to 1, by the timings of small and middle-sized models.
ENDS = {
    "load": 0.05,
    "data": 0.12,
    "analyse": 0.20,
    "observe": 0.50,
    "select": 0.55,
    "cut": 0.60,
    "prove": 0.70,
    "finish": 0.85,
    "judge": 0.95,
    "surface": 0.99,
    "report": 1.00,
}


@dataclass(frozen=True)
class InputFile:
    path: Path
    sha256: str
    name: str
    bytes: int


@dataclass(frozen=True)
class Inputs:
    """`external` maps the locations that the model names to files."""

    model: InputFile
    external: Mapping[str, InputFile]
    calibration: InputFile | None
    evaluation: InputFile | None
    history: InputFile | None = None


@dataclass(frozen=True)
class Limits:
    """`torchscript`: this process may load code that came with a model, because it is confined or its user says so."""

    threads: int
    max_data_bytes: int
    torchscript: bool = False


@dataclass(frozen=True, eq=False)
class Subject:
    """The model under the knife. `groups` are those in scope, `folder` is where results go."""

    request: PruneRequest
    inputs: Inputs
    loaded: Loaded
    graph: Graph
    analysis: Analysis
    groups: tuple[Group, ...]
    device: Literal["cpu", "cuda"]
    folder: Path
    sample: Samples  # one, or the model's fixed batch
    sensitivities: Sensitivities | None = None


@dataclass(frozen=True)
class Made:
    """The model as it stood after one step, in a file."""

    step: Literal["pruned", "distilled", "quantized"]
    path: Path
    weights: Path | None
    seconds: float
    detail: str

    def files(self) -> tuple[Path, ...]:
        return both(self.path, self.weights)


def both(model: Path, weights: Path | None) -> tuple[Path, ...]:
    """A model's file, and that of its weights where there is one."""
    return (model,) if weights is None else (model, weights)


@dataclass(frozen=True, eq=False)
class Work:
    """What was done to it. `changed` are constants at full width, and offsets of values; `passed` are the groups or
    layers that the criterion has no say on, and why; `refits` what was fitted anew, `unfitted` what could not be;
    `model` is the result, `artifact` its file, and `weights` that of its weights, if they have one. `made` are the
    steps that led there, where there are several; `quantized`: the file holds `model` in eight bits."""

    changed: Mapping[str, Array]
    gone: Gone
    done: Mapping[str, tuple[Done, ...]]
    passed: Mapping[str, str]
    refits: tuple[Refit, ...]
    unfitted: tuple[Unfitted, ...]
    model: ir.Model
    artifact: Path
    weights: Path | None
    made: tuple[Made, ...] = ()
    quantized: bool = False

    def files(self) -> tuple[Path, ...]:
        """All that the result consists of."""
        return both(self.artifact, self.weights)


@dataclass(frozen=True)
class Judged:
    """The proof, and both models measured in onnxruntime. Scores are None without data to judge with, or where
    `unjudged` says that no output can be judged."""

    proof: Exactness
    before: Score | None
    after: Score | None
    latency_before_ms: float
    latency_after_ms: float
    steps: tuple[FinishingStep, ...] = ()
    unjudged: str = ""
    storage: tuple[Stored, ...] = ()


@dataclass
class Stages:
    """Tells the caller where the job stands, and keeps the time of each stage. `settle` is called after each."""

    emit: Emit
    settle: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.perf_counter
    timings: list[StageTiming] = field(default_factory=list)
    reached: float = 0.0
    name: str = ""

    @contextmanager
    def __call__(self, name: str, message: str) -> Iterator[None]:
        self.name = name
        self.emit(Progress(stage=name, fraction=self.reached, message=message))
        start = self.clock()
        yield
        self.settle()
        self._add(name, self.clock() - start)
        self.reached = ENDS[name]

    def _add(self, name: str, seconds: float) -> None:
        """A stage that is passed again adds to its time."""
        for place, known in enumerate(self.timings):
            if known.stage == name:
                self.timings[place] = known.model_copy(update={"seconds": known.seconds + seconds})
                return
        self.timings.append(StageTiming(stage=name, seconds=seconds))

    def within(self, share: float, message: str) -> None:
        """Progress inside the current stage."""
        fraction = self.reached + share * (ENDS[self.name] - self.reached)
        self.emit(Progress(stage=self.name, fraction=min(fraction, 1.0), message=message))
