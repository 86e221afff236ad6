"""Karnin's sensitivity: parameters and documentation."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from schemas.criteria.weights import WeightCriterion


class Karnin(WeightCriterion):
    """A weight that training hardly had to move for what it became does little for the loss."""

    summary: ClassVar[str] = (
        "The sensitivity of the loss to the removal of a weight, estimated from the updates that training made: "
        "S = sum of dw^2 * w_final / (eta * (w_final - w_initial)), normalised in each layer. `of: weights` zeroes the "
        "weights of the least sensitivity, `of: units` ranks units by the sum over their incoming weights. Needs "
        "`history`: the weights at the start and after each epoch."
    )
    use_when: ClassVar[str] = "You train the network yourself and can record its weights: examples/record_history.py."
    cost: ClassVar[str] = "No pass over data; three copies of the weights in memory."
    default_compensation: ClassVar[str] = "none"  # the method as published, and it needs no data
    paper: ClassVar[str] = "Karnin 1990; Khanal, Examining the Effects of Pruning on a CNN."

    name: Literal["karnin"] = "karnin"
    of: Literal["units", "weights"] = Field(default="weights", description="Rank whole units or single weights.")
    normalise: Literal["minmax", "abs", "none"] = Field(
        default="minmax",
        description="In each layer: `minmax` takes the signed sensitivity from its least (0) to its greatest (1), "
        "`abs` its absolute value over the greatest; `none` leaves it, signed, as it is.",
    )
    threshold: float | None = Field(
        default=None, description="With amount `threshold`: what has a smaller normalised sensitivity goes."
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="The eta of the formula; by default the history's. It cancels out unless `normalise` is `none`.",
    )

    @model_validator(mode="after")
    def _of_units(self) -> "Karnin":
        self.refuse_for_units(self.of)
        return self

    def needs_data(self) -> bool:
        return False

    def needs_history(self) -> bool:
        return True

    def prunes_weights(self) -> bool:
        return self.of == "weights"

    def has_threshold(self) -> bool:
        return self.threshold is not None
