"""The report of one pruning job: what was removed, what it cost in accuracy, and the proof.

In: nothing. Out: `Report`, versioned by `schema_version` (a new field raises the minor number, a changed meaning the
major).
Bytes for sizes, seconds for times, degrees for angles, shares between 0 and 1.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.amount import Amount
from schemas.device import Devices
from schemas.files import FileName
from schemas.job import Verdict
from schemas.request import PruneRequest

SCHEMA_VERSION: Literal["1.1"] = "1.1"


class ReportPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassAccuracy(ReportPart):
    label: int
    samples: int
    accuracy: float | None = Field(description="None for a class without samples.")


class ClassificationScore(ReportPart):
    task: Literal["classification"] = "classification"
    samples: int = Field(description="Judged positions: samples, times positions where the output has several.")
    score: float = Field(description="Top-1 accuracy.")
    top5: float | None = Field(description="None where there are fewer than six classes.")
    per_class: tuple[ClassAccuracy, ...] = Field(description="Empty above 4,096 classes.")
    confusion: tuple[tuple[int, ...], ...] = Field(
        description="Rows: labels; columns: predictions. Empty above 256 classes."
    )
    agreement: float | None = Field(default=None, description="Share of predictions equal to the uploaded model's.")
    loss: float | None = Field(default=None, description="Mean cross-entropy; None where the output is class numbers.")


class BinaryScore(ReportPart):
    task: Literal["binary"] = "binary"
    samples: int
    score: float = Field(description="Accuracy.")
    precision: float | None
    recall: float | None
    confusion: tuple[tuple[int, ...], ...]
    agreement: float | None = None
    loss: float | None = Field(default=None, description="Mean cross-entropy; None where the output is yes or no.")


class RegressionScore(ReportPart):
    task: Literal["regression"] = "regression"
    samples: int
    score: float = Field(description="R squared.")
    mse: float
    mae: float

    @property
    def loss(self) -> float:
        return self.mse


class FidelityScore(ReportPart):
    task: Literal["fidelity"] = "fidelity"
    samples: int
    score: float = Field(description="Agreement of the predicted class, or 1 - relative error without classes.")
    agreement: float | None = Field(description="Share of equal predicted classes; None without a class axis.")
    relative_error: float = Field(description="Root of the squared difference over the squared original.")

    @property
    def loss(self) -> float:
        return self.relative_error


Score = Annotated[ClassificationScore | BinaryScore | RegressionScore | FidelityScore, Field(discriminator="task")]


class Side(ReportPart):
    """One model, measured. MACs, RAM and latency are for one sample (or the model's fixed batch)."""

    parameters: int
    nonzero_parameters: int
    macs: int
    file_bytes: int = Field(description="The model file and its external data.")
    gzip_bytes: int
    flash_bytes: int = Field(description="The weights, each in its own type; the program that runs them is left out.")
    peak_ram_bytes: int = Field(
        description="One block of memory for inputs, outputs and all activations, with places reused and operators in "
        "file order. Scratch of single operators and the stack are left out."
    )
    latency_ms: float = Field(description="Median in onnxruntime on this machine, one thread.")
    accuracy: Score | None = Field(description="None where the job had no data to judge with.")


class LayerChange(ReportPart):
    name: str
    op_type: str
    units_before: int
    units_after: int
    parameters_before: int
    parameters_after: int
    nonzero_after: int
    macs_before: int
    macs_after: int


class Pair(ReportPart):
    """A removed unit and the one that stood against it."""

    removed: int
    partner: int
    angle_deg: float
    action: Literal["merged", "projected", "refitted", "dropped", "cancelled"] = Field(
        description="refitted: what reads it was fitted anew on all that stays; cancelled: an opposite pair, both "
        "removed."
    )


class GroupChange(ReportPart):
    """Units that live on the same axes and were compared with each other."""

    name: str
    layers: tuple[str, ...] = Field(description="The layers that produce the units.")
    consumers: tuple[str, ...] = Field(description="The layers that read them.")
    units_before: int
    units_after: int
    removed: tuple[int, ...]
    lossy: bool = Field(
        default=False, description="Opened by options.lossy: something takes statistics over these units."
    )
    dead: tuple[int, ...] = Field(default=(), description="Removed because they were never active on the data.")
    pairs: tuple[Pair, ...] = ()


class Refit(ReportPart):
    """A layer whose weights were fitted anew. Errors are mean squares, as shares of what the uploaded model computes
    there, shortcut included, on samples that were held back from the fit."""

    layer: str
    op_type: str
    inputs_before: int = Field(description="Features of each output: inputs times taps, and the bias where it has one.")
    inputs_after: int
    error_before: float = Field(description="With the weights that stay left as they were.")
    error_after: float = Field(
        description="When the layer's turn came; what it makes may be formed once more for the layer that reads it."
    )
    ridge: float | None = Field(
        description="None: no fit was better, and the weights stay as they were. 0: the projection was, and is kept."
    )


class Unfitted(ReportPart):
    """A layer that reads removed units and keeps the weights that it has for the others."""

    layer: str
    op_type: str
    reason: str


class Refusal(ReportPart):
    """Why something stays as it was."""

    where: str
    reason: str = Field(description="Stable code: operator_unknown, graph_output, scope, ...")
    message: str
    parameters: int = Field(default=0, description="Parameters that this keeps out of reach.")
    opened_by: Literal["options.lossy"] | None = Field(
        default=None, description="In inspections: the option with which these units could go."
    )


class Coverage(ReportPart):
    parameters: int
    prunable_parameters: int = Field(description="Parameters of the layers that produce or read a prunable group.")
    groups: int
    units: int


class Exactness(ReportPart):
    """The pruned file against the uploaded model with the same units masked to zero, both in onnxruntime."""

    max_relative_difference: float
    tolerance: float
    passed: bool
    mask_has_effect: bool = Field(description="False: the removed units changed nothing; they were dead.")
    samples: int
    outputs: tuple[str, ...] = Field(description="The tensors compared.")
    over_kept: tuple[str, ...] = Field(
        default=(),
        description="options.lossy: the operators whose statistics the masked model takes over the units that stay.",
    )


class FinishingStep(ReportPart):
    """The model after one step of the way, measured as the whole is: what the step cost and gave."""

    step: Literal["pruned", "distilled", "quantized"]
    seconds: float = Field(description="What the step took, its measurement aside.")
    file_bytes: int
    gzip_bytes: int
    latency_ms: float
    accuracy: Score | None
    detail: str = Field(description="What was done, in a sentence.")


class Stored(ReportPart):
    """The same pruned weights in one form of storage."""

    form: Literal["dense", "sparse"]
    file: str = Field(description="The name of the file among the job's artifacts.")
    file_bytes: int
    gzip_bytes: int
    nonzero_weights: int = Field(description="Of the weights that were pruned, biases aside.")
    weights: int
    latency_ms: float


class SearchPoint(ReportPart):
    """One model that a search has made and judged on samples held back."""

    amount: Amount
    parameters: int
    macs: int
    file_bytes: int = Field(description="Estimated.")
    flash_bytes: int
    peak_ram_bytes: int
    latency_ms: float = Field(description="Measured where the job ran.")
    target_ms: float | None = Field(default=None, description="Estimated for the target, where it states a speed.")
    score: float | None
    drop: float | None = Field(description="Of the score, against the uploaded model on the same samples.")
    broken: tuple[str, ...] = Field(description="The constraints that it does not meet.")


class SearchReport(ReportPart):
    """How the amount was found, where the request left it open."""

    points: tuple[SearchPoint, ...] = Field(description="In the order in which they were visited.")
    chosen: int = Field(description="Which of them the artifact is, counted from 0.")
    because: str
    samples: int = Field(description="Samples held back that the points were judged on.")
    by_labels: bool = Field(default=True, description="Or by agreement with the uploaded model.")

    @property
    def judged(self) -> str:
        """On what and by what."""
        by = "by their labels" if self.by_labels else "by agreement with the uploaded model"
        return f"judged on {self.samples:,} samples held back {by}"


class DataUse(ReportPart):
    """What became of the samples."""

    calibration_samples: int
    fit_samples: int = Field(description="Used for activations and the choice of units.")
    held_back_samples: int
    evaluation_samples: int = Field(description="Used for the accuracies of this report and nothing else.")
    duplicates_dropped: int
    shared_dropped: int = Field(description="Rows of the evaluation file that were also calibration rows.")
    labels: bool
    how: str = Field(description="The split in a sentence.")


class StageTiming(ReportPart):
    stage: str
    seconds: float


class Provenance(ReportPart):
    model_sha256: str
    external_sha256: dict[str, str] = Field(default_factory=dict)
    calibration_sha256: str | None
    evaluation_sha256: str | None
    history_sha256: str | None = None
    artifact_sha256: str
    artifact_external_sha256: dict[FileName, str] = Field(default_factory=dict)
    seed: int
    device: Literal["cpu", "cuda"]
    threads: int
    versions: dict[str, str]


class Report(ReportPart):
    schema_version: Literal["1.1"] = SCHEMA_VERSION
    options: PruneRequest
    verdict: Verdict
    before: Side
    after: Side
    exactness: Exactness
    devices: Devices
    search: SearchReport | None = Field(default=None, description="With `amount: {search: true}`: the way to it.")
    steps: tuple[FinishingStep, ...] = Field(
        default=(), description="With `distill` or `quantize`: the model as pruned, and after each of them."
    )
    storage: tuple[Stored, ...] = Field(
        default=(), description="For criteria of single weights: the file as it is, and with `sparse_output` the other."
    )
    layers: tuple[LayerChange, ...]
    groups: tuple[GroupChange, ...]
    refits: tuple[Refit, ...] = Field(default=(), description="In the order of the walk from front to back.")
    unfitted: tuple[Unfitted, ...] = Field(
        default=(),
        description="With compensation reconstruct: what reads removed units and could not be fitted, and why.",
    )
    refusals: tuple[Refusal, ...]
    coverage: Coverage
    data: DataUse
    warnings: tuple[str, ...] = ()
    timings: tuple[StageTiming, ...]
    provenance: Provenance
