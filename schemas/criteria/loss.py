"""What the criteria that ask for the loss have in common: which loss, its sign, the order of removals, how many
samples."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.criteria.base import CriterionBase


class LossCriterion(CriterionBase):
    """Scores are changes of the loss when a unit is taken away: they compare across groups."""

    default_compensation: ClassVar[str] = "none"  # the score is that of a plain removal

    loss: Literal["auto", "squared_error", "cross_entropy"] = Field(
        default="auto",
        description="Between the judged output (`evaluation`) and the labels: `squared_error` of probabilities or "
        "numbers, `cross_entropy`; `auto` is cross-entropy where classes are told apart. Without labels, the distance "
        "to the model's own outputs.",
    )
    signed: bool = Field(
        default=True,
        description="Rank by the signed change, so that a unit whose removal lowers the loss goes first; `false` ranks "
        "by its absolute value.",
    )
    order: Literal["one_ranking", "rerank"] = Field(
        default="one_ranking",
        description="`one_ranking` scores every unit of the whole network once; `rerank` scores those left in a group "
        "again after each removal from it.",
    )
    threshold: float | None = Field(
        default=None,
        description="With amount `threshold`: units whose removal changes the mean loss by less than this go.",
    )
    samples: int | None = Field(
        default=1000, ge=1, description="Look at this many calibration samples at most; null for all of them."
    )

    def needs_data(self) -> bool:
        return True

    def needs_grams(self) -> bool:
        return False

    def comparable(self) -> bool:
        return True

    def has_threshold(self) -> bool:
        return self.threshold is not None
