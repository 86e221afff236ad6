"""Taylor-2: parameters and documentation."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.criteria.loss import LossCriterion


class Taylor2(LossCriterion):
    """The loss follows its slope and its curvature."""

    summary: ClassVar[str] = (
        "The change of the loss when a unit is taken away, to the second order: minus the derivative of the loss in "
        "the unit's gate, plus half the second derivative."
    )
    use_when: ClassVar[str] = "Taylor-1 is too coarse, or there are no labels, and trying every unit takes too long."
    cost: ClassVar[str] = (
        "For every unit about three passes through what follows it, over `samples`. Where outputs are fewer than units "
        "and what follows bends nowhere (ReLU does not), or with `gauss_newton`: one pass, and one backwards for each "
        "output. With `rerank` again for every removal. Otherwise trying every unit (brute_force) is often no dearer."
    )
    paper: ClassVar[str] = (
        "Wolfe, Sharma and Raj, The Incredible Shrinking Neural Network; LeCun, Denker and Solla 1990 (the diagonal)."
    )

    name: Literal["taylor2"] = "taylor2"
    hessian: Literal["exact", "gauss_newton"] = Field(
        default="exact",
        description="The second derivative: `exact`, or `gauss_newton`, which leaves the curvature of the network out "
        "and is never negative.",
    )
