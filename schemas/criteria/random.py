"""Random: the baseline of every comparison. Parameters and documentation."""

from typing import ClassVar, Literal

from schemas.criteria.base import CriterionBase


class Random(CriterionBase):
    """What chance removes: a criterion that does no better than this knows nothing."""

    summary: ClassVar[str] = "Units go in an order drawn from the request's `seed`, another one in every group."
    use_when: ClassVar[str] = "You want the baseline that every other criterion has to beat."
    cost: ClassVar[str] = "No pass over data."
    default_compensation: ClassVar[str] = "none"  # a baseline is not repaired
    paper: ClassVar[str] = "Khanal, Examining the Effects of Pruning on a CNN; Mittal 2018."

    name: Literal["random"] = "random"

    def needs_data(self) -> bool:
        return False

    def has_threshold(self) -> bool:
        return False
