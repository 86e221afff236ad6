"""What came of many prunings of one model: the report of a sweep, and of a comparison of criteria.

In: nothing. Out: `SweepReport`, versioned by `schema_version` as the report of a pruning is. Of every point that was
kept as a file there is also that report.
"""

from typing import Literal

from pydantic import Field

from schemas.errors import Failure
from schemas.files import FileName
from schemas.job import Verdict
from schemas.report import DataUse, ReportPart, Side, StageTiming
from schemas.request import PruneRequest
from schemas.sweep import CompareRequest, SweepRequest

SWEEP_VERSION: Literal["1.0"] = "1.0"


class Spread(ReportPart):
    """A figure over the seeds of a point; of one seed the deviation is 0."""

    mean: float
    std: float = Field(description="The standard deviation of the seeds at hand (over n).")


class PointRun(ReportPart):
    """One point with one seed, measured as a pruning is."""

    seed: int
    verdict: Verdict
    score_before: float | None = Field(description="Of the uploaded model on this seed's evaluation samples.")
    score: float | None
    loss_before: float | None
    loss: float | None = Field(description="Cross-entropy, squared error, or the relative error where nothing else is.")
    units_removed: int
    parameters: int
    nonzero_parameters: int
    macs: int
    file_bytes: int
    flash_bytes: int
    peak_ram_bytes: int
    latency_ms: float
    max_relative_difference: float = Field(description="Against the masked model: the proof.")


class SweepPoint(ReportPart):
    """One point over all its seeds."""

    number: int = Field(ge=1)
    label: str
    series: str = Field(description="The curve it belongs to; empty where there is one.")
    options: PruneRequest
    runs: tuple[PointRun, ...]
    failure: Failure | None = Field(default=None, description="Why it could not be run with some seed.")
    meets: bool = Field(description="Whether it ran with every seed and the constraints held each time.")
    score: Spread | None = None
    score_change: Spread | None = None
    loss: Spread | None = None
    units_removed: Spread | None = None
    parameters: Spread | None = None
    nonzero_parameters: Spread | None = None
    macs: Spread | None = None
    file_bytes: Spread | None = None
    artifact: str | None = Field(default=None, description="The name of its model among the job's files.")
    artifact_sha256: str | None = None
    artifact_external_sha256: dict[FileName, str] = Field(default_factory=dict)
    report: str | None = Field(default=None, description="The name of its own report among the job's files.")


class GatedUnit(ReportPart):
    """One of the units that a criterion would remove first, switched off slowly."""

    series: str
    rank: int = Field(ge=1, description="1: the first to go.")
    group: str
    unit: int
    loss: tuple[float | None, ...] = Field(description="At each of the surface's gates.")
    score: tuple[float, ...]


class Degradation(ReportPart):
    """One criterion's units removed in its order, without compensation and without cutting: they are masked."""

    series: str
    removed: tuple[int, ...]
    loss: tuple[float | None, ...]
    score: tuple[float, ...]


class Surface(ReportPart):
    """How the loss moves when units are switched off (Wolfe, Sharma and Raj)."""

    gates: tuple[float, ...] = Field(description="What a unit is multiplied by, from 1 to 0.")
    units: tuple[GatedUnit, ...]
    degradation: tuple[Degradation, ...]
    samples: int
    left_out: tuple[str, ...] = Field(default=(), description="Criteria that rank no units, and why.")


class SweepSource(ReportPart):
    model_sha256: str
    external_sha256: dict[str, str] = Field(default_factory=dict)
    calibration_sha256: str | None
    evaluation_sha256: str | None
    device: Literal["cpu", "cuda"]
    threads: int
    versions: dict[str, str]


class SweepReport(ReportPart):
    schema_version: Literal["1.0"] = SWEEP_VERSION
    kind: Literal["sweep", "compare"]
    options: SweepRequest | CompareRequest
    verdict: Verdict
    before: Side = Field(description="The uploaded model, with the first seed's data.")
    points: tuple[SweepPoint, ...]
    best: int | None = Field(description="The number of the best point, if there is one.")
    best_because: str
    surface: Surface | None = None
    data: DataUse = Field(description="Of the first seed.")
    warnings: tuple[str, ...] = ()
    timings: tuple[StageTiming, ...]
    source: SweepSource
