"""Group Optimal Brain Surgeon: parameters and documentation."""

from typing import ClassVar, Literal

from schemas.criteria.base import CriterionBase


class Obs(CriterionBase):
    """What the others cannot take over matters; what they can does not."""

    summary: ClassVar[str] = (
        "What removing a unit costs the layers that read it, once their weights on all other units have been fitted "
        "anew: the cheapest goes, weights and inverse Gram are brought up to date in closed form, and so on. The costs "
        "of all layers are shares of what is computed there, so that a budget is shared out where it hurts least."
    )
    use_when: ClassVar[str] = "You have representative data, labelled or not, and want the best model of a given cost."
    cost: ClassVar[str] = (
        "One forward pass and the Grams of all readers; with the square of inputs times taps of a layer in memory."
    )
    paper: ClassVar[str] = "Hassibi and Stork 1993, for groups of weights; LeCun 1990."

    name: Literal["obs"] = "obs"

    def needs_data(self) -> bool:
        return True

    def needs_grams(self) -> bool:
        return False

    def comparable(self) -> bool:
        return True

    def watches_readers(self) -> bool:
        return True

    def has_threshold(self) -> bool:
        return False

    def usual_amount(self) -> dict[str, object]:
        return {"keep_macs": 0.5}
