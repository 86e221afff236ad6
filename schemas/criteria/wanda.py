"""Wanda: weights times the size of what they read. Parameters and documentation."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.criteria.weights import WeightCriterion


class Wanda(WeightCriterion):
    """A small weight on a large input may matter more than a large weight on a small one."""

    summary: ClassVar[str] = (
        "Zeroes the weights with the smallest absolute value times the root mean square of the input that they read, "
        "by default compared among the weights of one output. Convolutions read every channel at every tap. "
        "Convolutions and matrix products; recurrent layers stay, and the report says so."
    )
    use_when: ClassVar[str] = "You want zeros rather than a smaller network, have data, and no time to repair anything."
    cost: ClassVar[str] = "One forward pass."
    default_compensation: ClassVar[str] = "none"
    paper: ClassVar[str] = "Sun, Liu, Bair and Kolter, A Simple and Effective Pruning Approach for LLMs, 2023."

    name: Literal["wanda"] = "wanda"
    across: Literal["row", "layer", "global"] = Field(
        default="row",
        description="The share is taken of every output's weights, of every layer's, or of all together.",
    )
    threshold: float | None = Field(
        default=None, gt=0, description="With amount `threshold`: weights with a smaller product go."
    )

    def needs_data(self) -> bool:
        return True

    def reads_inputs(self) -> Literal["norms", "grams"] | None:
        return "norms"

    def prunes_weights(self) -> bool:
        return True

    def has_threshold(self) -> bool:
        return self.threshold is not None
