"""Distinctiveness (Gedeon and Harris): parameters and documentation."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from schemas.criteria.base import CriterionBase


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

    of_threshold: ClassVar[tuple[str, ...]] = ("angle_deg", "opposite_deg", "iterate")

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
    iterate: Literal["pairs", "closest"] = Field(
        default="pairs",
        description="How the threshold goes through the units: `pairs` compares each with all later ones, in file "
        "order, as published; `closest` takes the closest pair that is left, until none is similar, then the most "
        "opposite. A unit that took another's weights over keeps its activations, and so its angles to the others.",
    )
    dead_units: bool = Field(
        default=True, description="Remove units that are never active first, apart from the pairs."
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Distinctiveness":
        if self.opposite_deg <= self.angle_deg:
            raise ValueError(f"opposite_deg ({self.opposite_deg:g}) must be larger than angle_deg ({self.angle_deg:g})")
        return self

    def in_words(self, by_threshold: bool = True) -> str:
        where = ", on weights" if self.on == "weights" else ""
        limits = f" at {self.angle_deg:g}° / {self.opposite_deg:g}°" if by_threshold else ""
        return f"distinctiveness{limits}, centre {self.centre}{where}"

    def needs_data(self) -> bool:
        return self.on == "activations"

    def usual_compensation(self) -> str:
        return self.default_compensation if self.needs_data() else "merge"

    def names_partners(self) -> bool:
        return True

    def has_threshold(self) -> bool:
        return True
