"""Scales of batch normalisation: parameters and documentation."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.criteria.base import CriterionBase


class BnScale(CriterionBase):
    """A channel that its normalisation makes small is small for whoever reads it."""

    summary: ClassVar[str] = (
        "The absolute scale (gamma) that the BatchNormalization behind a unit multiplies it with; the mean where there "
        "are several. Units without a BatchNormalization in the file stay."
    )
    use_when: ClassVar[str] = (
        "The network was trained with a penalty on these scales, and exported with its BatchNormalization (exporters "
        "fold it into the convolution unless they are told to keep it)."
    )
    cost: ClassVar[str] = "No pass over data."
    default_compensation: ClassVar[str] = "none"  # the method as published, and it needs no data
    paper: ClassVar[str] = "Liu, Li, Shen, Huang, Yan and Zhang, Network Slimming, 2017."

    name: Literal["bn_scale"] = "bn_scale"
    threshold: float | None = Field(
        default=None, gt=0, description="With amount `threshold`: what has a smaller absolute scale goes."
    )

    def needs_data(self) -> bool:
        return False

    def has_threshold(self) -> bool:
        return self.threshold is not None
