"""FPGM, filter pruning via the geometric median: parameters and documentation."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.criteria.base import CriterionBase


class Fpgm(CriterionBase):
    """The unit closest to all others is the one that they can stand in for."""

    summary: ClassVar[str] = (
        "The sum of the distances from a unit's incoming weights to those of all other units of its group: the units "
        "nearest to the geometric median go first, for the others can represent them."
    )
    use_when: ClassVar[str] = "You have no data, and the sizes of the weights tell little because none is small."
    cost: ClassVar[str] = "No pass over data; the square of a group's units in memory."
    default_compensation: ClassVar[str] = "none"  # the method as published, and it needs no data
    paper: ClassVar[str] = "He, Liu, Wang, Hu and Yang, Filter Pruning via Geometric Median, 2019."

    name: Literal["fpgm"] = "fpgm"
    distance: Literal["euclidean", "cosine"] = Field(
        default="euclidean", description="How far apart two units' incoming weights are; `cosine` ignores their sizes."
    )

    def needs_data(self) -> bool:
        return False

    def has_threshold(self) -> bool:
        return False
