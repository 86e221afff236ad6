"""APoZ, the average percentage of zeros: parameters and documentation."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.criteria.base import CriterionBase


class Apoz(CriterionBase):
    """Units that mostly stay silent have little to say."""

    summary: ClassVar[str] = (
        "The average percentage of zeros: in what share of samples and positions a unit is exactly zero where the next "
        "layer reads it. The units that are zero most often go first. Only where activations make zeros (ReLU)."
    )
    use_when: ClassVar[str] = "You have data and a network of ReLUs, and want a cheap look at what its units do."
    cost: ClassVar[str] = "One forward pass."
    default_compensation: ClassVar[str] = "none"  # the method as published
    paper: ClassVar[str] = "Hu, Peng, Tai and Tang, Network Trimming, 2016."

    name: Literal["apoz"] = "apoz"
    threshold: float | None = Field(
        default=None, ge=0, lt=1, description="With amount `threshold`: what is zero in a larger share than this goes."
    )

    def needs_data(self) -> bool:
        return True

    def counts_zeros(self) -> bool:
        return True

    def has_threshold(self) -> bool:
        return self.threshold is not None
