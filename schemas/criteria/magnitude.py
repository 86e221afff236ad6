"""Magnitude of weights and of units: parameters and documentation."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from schemas.criteria.weights import WeightCriterion


class Magnitude(WeightCriterion):
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
    threshold: float | None = Field(
        default=None, gt=0, description="With amount `threshold`: what has a smaller norm (or absolute value) goes."
    )

    @model_validator(mode="after")
    def _global_weights(self) -> "Magnitude":
        self.refuse_for_units(self.of)
        return self

    def in_words(self, by_threshold: bool = True) -> str:
        where = {"row": ", in every output", "layer": "", "global": ", across all layers"}[self.across]
        pattern = f", {self.pattern_in_words()}" if self.pattern else ""
        limit = f" below {self.threshold:g}" if by_threshold and self.threshold is not None else ""
        return f"{self.norm.upper()} magnitude of {self.of}{limit}{where}{pattern}"

    def needs_data(self) -> bool:
        return False

    def prunes_weights(self) -> bool:
        return self.of == "weights"

    def has_threshold(self) -> bool:
        return self.threshold is not None
