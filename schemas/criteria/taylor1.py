"""Taylor-1: parameters and documentation."""

from typing import ClassVar, Literal

from schemas.criteria.loss import LossCriterion


class Taylor1(LossCriterion):
    """The loss follows its slope."""

    summary: ClassVar[str] = (
        "The change of the loss when a unit is taken away, to the first order: minus the derivative of the loss in the "
        "unit's gate, which multiplies the unit wherever it is read. Needs labels."
    )
    use_when: ClassVar[str] = "You have labels and want a ranking by the loss at the price of two passes."
    cost: ClassVar[str] = "One pass forwards and one backwards; with `rerank` one of each for every removal."
    paper: ClassVar[str] = (
        "Wolfe, Sharma and Raj, The Incredible Shrinking Neural Network; Molchanov 2017; Mozer and Smolensky 1989."
    )

    name: Literal["taylor1"] = "taylor1"
