"""The pruning criteria: one class each = its parameters and their documentation. A tagged union on `name`.

A new criterion is one class here, one line in `CRITERIA`, and one file in `worker/engine/criteria/`.
"""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class CriterionBase(BaseModel, ABC):
    """What every criterion says of itself, beside its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    summary: ClassVar[str]
    use_when: ClassVar[str]
    cost: ClassVar[str]
    paper: ClassVar[str]
    default_compensation: ClassVar[str] = "merge"

    @abstractmethod
    def needs_data(self) -> bool:
        """Whether the criterion itself looks at calibration data."""

    def prunes_weights(self) -> bool:
        """True for unstructured criteria: they zero single weights and leave every shape as it is."""
        return False

    def names_partners(self) -> bool:
        """Whether each removed unit comes with the kept unit that stands in for it."""
        return False

    @abstractmethod
    def has_threshold(self) -> bool:
        """Whether `amount: {"threshold": true}` means something with these parameters."""


class Distinctiveness(CriterionBase):
    """Units whose activation vectors point the same way over the data do the same work: keep one of them."""

    summary: ClassVar[str] = (
        "Angles between the activation vectors of the units of a layer over the calibration data. Two units closer "
        "than `angle_deg` are the same: the later one goes and its outgoing weights are added to the first. Two "
        "further apart than `opposite_deg` cancel each other: both go. Units that never fire go first."
    )
    use_when: ClassVar[str] = (
        "You have representative data, labelled or not, and want to remove what does no work of its own."
    )
    cost: ClassVar[str] = "One forward pass; memory grows with the square of the units of a layer, not with the data."
    paper: ClassVar[str] = "Gedeon and Harris 1991; Zheng, Pruning Technique based on Distinctiveness for Deep NN."

    name: Literal["distinctiveness"] = "distinctiveness"
    angle_deg: float = Field(
        default=15.0, ge=0, le=180, description="Two units at a smaller angle than this are similar: one of them goes."
    )
    opposite_deg: float = Field(
        default=165.0, ge=0, le=180, description="Two units at a larger angle than this are opposite: both go."
    )
    centre: Literal["auto", "half", "mean", "none"] = Field(
        default="auto",
        description="What is subtracted before the angle is taken: `half` the middle of the activation's range "
        "(0.5 for sigmoid), `mean` each unit's mean, `none` nothing; `auto` is `half` where the range is finite.",
    )
    on: Literal["activations", "weights"] = Field(
        default="activations", description="Angles of activation vectors, or of the rows of incoming weights (no data)."
    )
    dead_units: bool = Field(
        default=True, description="Remove units that are never active first, apart from the pairs."
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Distinctiveness":
        if self.opposite_deg <= self.angle_deg:
            raise ValueError(f"opposite_deg ({self.opposite_deg:g}) must be larger than angle_deg ({self.angle_deg:g})")
        return self

    def needs_data(self) -> bool:
        return self.on == "activations"

    def names_partners(self) -> bool:
        return True

    def has_threshold(self) -> bool:
        return True


class Magnitude(CriterionBase):
    """Small weights matter little."""

    summary: ClassVar[str] = (
        "The size of weights. `of: units` ranks whole units by the norm of their incoming weights; `of: weights` "
        "zeroes single weights (unstructured: the file keeps its shapes and gains zeros)."
    )
    use_when: ClassVar[str] = "You have no data, or want the usual baseline."
    cost: ClassVar[str] = "No pass over data."
    default_compensation: ClassVar[str] = "none"  # the method as published, and it needs no data
    paper: ClassVar[str] = (
        "Fathollahi, Comparing performance of two pruning methods on Fashion-MNIST; Han 2015; Li 2017."
    )

    name: Literal["magnitude"] = "magnitude"
    of: Literal["units", "weights"] = Field(default="units", description="Rank whole units or single weights.")
    norm: Literal["l1", "l2"] = Field(default="l2", description="The norm of a unit's incoming weights.")
    across: Literal["layer", "global"] = Field(
        default="layer", description="For weights: the share is taken of every layer, or of all layers together."
    )
    threshold: float | None = Field(
        default=None, gt=0, description="With amount `threshold`: what has a smaller norm (or absolute value) goes."
    )

    @model_validator(mode="after")
    def _global_weights(self) -> "Magnitude":
        if self.across == "global" and self.of == "units":
            raise ValueError('across: "global" ranks single weights; use it with of: "weights"')
        return self

    def needs_data(self) -> bool:
        return False

    def prunes_weights(self) -> bool:
        return self.of == "weights"

    def has_threshold(self) -> bool:
        return self.threshold is not None


Criterion = Annotated[Distinctiveness | Magnitude, Field(discriminator="name")]

CRITERIA: dict[str, type[CriterionBase]] = {"distinctiveness": Distinctiveness, "magnitude": Magnitude}
