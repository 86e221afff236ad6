"""What a model would let go of: the answer to an inspection, in which nothing is removed.

In: nothing. Out: `Inspection`, versioned by `schema_version` as the report is. A unit's parameters and MACs are what
the model saves when that one unit goes.
"""

from typing import Literal

from pydantic import Field

from schemas.inspect_request import InspectRequest
from schemas.report import Coverage, Refusal, ReportPart, StageTiming

INSPECTION_VERSION: Literal["1.1"] = "1.1"


class InspectedModel(ReportPart):
    """The model as uploaded. MACs and RAM are for one sample (or the model's fixed batch)."""

    name: str
    parameters: int
    macs: int
    file_bytes: int = Field(description="The model file and its external data.")
    flash_bytes: int = Field(description="The weights, each in its own type.")
    peak_ram_bytes: int = Field(description="As in a report.")
    operators: int
    opset: int


class InspectedLayer(ReportPart):
    """An operator with constant weights."""

    name: str
    op_type: str
    units: int
    parameters: int
    macs: int
    prunable: bool = Field(description="Whether its units are in a group; if not, a pin says why.")


class InspectedGroup(ReportPart):
    """Units that live on the same axes and are compared with each other."""

    name: str
    units: int
    layers: tuple[str, ...] = Field(description="The layers that produce the units.")
    op_types: tuple[str, ...] = Field(description="The operators of those layers.")
    consumers: tuple[str, ...] = Field(description="The layers that read them.")
    parameters: int = Field(description="Parameters that lie on the group's axes.")
    parameters_per_unit: int
    macs_per_unit: int
    in_scope: bool = Field(description="Whether `options.scope` lets its units go.")
    lossy: bool = Field(
        default=False, description="Something takes statistics over its units: options.lossy lets them go."
    )


class Untouched(ReportPart):
    """Parameters on which no group has an axis, by the reason."""

    reason: str = Field(description="Stable code: operator_unknown, graph_output, not_read, ...")
    parameters: int
    constants: int = Field(description="How many weights those are.")
    example: str = Field(description="One of them, and why it stays.")


class FallbackOperator(ReportPart):
    """An operator that onnxruntime computed node by node: it is measured, but no gradient goes through it."""

    operator: str
    nodes: int
    example: str = Field(description="The name of one such node.")


class InspectionSource(ReportPart):
    model_sha256: str
    external_sha256: dict[str, str] = Field(default_factory=dict)
    calibration_sha256: str | None
    versions: dict[str, str]


class Inspection(ReportPart):
    schema_version: Literal["1.1"] = INSPECTION_VERSION
    options: InspectRequest
    model: InspectedModel
    layers: tuple[InspectedLayer, ...]
    groups: tuple[InspectedGroup, ...]
    pins: tuple[Refusal, ...] = Field(description="Every layer whose units stay, and why.")
    coverage: Coverage
    untouched: tuple[Untouched, ...] = Field(description="Why the rest of the parameters is in no group.")
    fallback: tuple[FallbackOperator, ...]
    shapes_from: Literal["calibration", "noise"] = Field(description="What the model was run with to see its shapes.")
    open_size: int | None = Field(
        default=None, description="What open dimensions besides the batch were taken as, where it was run with noise."
    )
    timings: tuple[StageTiming, ...]
    source: InspectionSource
