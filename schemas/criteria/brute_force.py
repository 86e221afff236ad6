"""Brute force: parameters and documentation."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.criteria.loss import LossCriterion


class BruteForce(LossCriterion):
    """Take it away and see."""

    summary: ClassVar[str] = (
        "The exact change of the loss when a unit is taken away. Only what follows the unit is computed again, for "
        "many units at once; where dense layers read it, its column times its row is subtracted from their outputs."
    )
    use_when: ClassVar[str] = "You want the ranking that others approximate, and the model is small or samples are few."
    cost: ClassVar[str] = (
        "For every unit one pass through what follows it, over `samples`; with `rerank` again for every removal; "
        "`cascade` tries fewer."
    )
    paper: ClassVar[str] = (
        "Wolfe, Sharma and Raj, The Incredible Shrinking Neural Network; Mozer and Smolensky 1989 (skeletonization)."
    )

    name: Literal["brute_force"] = "brute_force"
    cascade: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Try only this share of a group's units, those that signed Taylor-1 puts first; the others follow "
        "by their Taylor-1 score. Needs labels.",
    )
