"""Random: the baseline of every comparison. Parameters and documentation."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from schemas.criteria.weights import WeightCriterion


class Random(WeightCriterion):
    """What chance removes: a criterion that does no better than this knows nothing."""

    summary: ClassVar[str] = (
        "Units or, with `of: weights`, single weights go in an order drawn from the request's `seed`, another one in "
        "every layer."
    )
    use_when: ClassVar[str] = "You want the baseline that every other criterion has to beat."
    cost: ClassVar[str] = "No pass over data."
    default_compensation: ClassVar[str] = "none"  # a baseline is not repaired
    paper: ClassVar[str] = "Khanal, Examining the Effects of Pruning on a CNN; Mittal 2018."

    name: Literal["random"] = "random"
    of: Literal["units", "weights"] = Field(default="units", description="Rank whole units or single weights.")

    @model_validator(mode="after")
    def _of_units(self) -> "Random":
        self.refuse_for_units(self.of)
        return self

    def needs_data(self) -> bool:
        return False

    def prunes_weights(self) -> bool:
        return self.of == "weights"

    def has_threshold(self) -> bool:
        return False
