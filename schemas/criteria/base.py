"""What every criterion says of itself, beside its parameters."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict


class CriterionBase(BaseModel, ABC):
    """What every criterion says of itself, beside its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    summary: ClassVar[str]
    use_when: ClassVar[str]
    cost: ClassVar[str]
    paper: ClassVar[str]
    default_compensation: ClassVar[str] = "reconstruct"
    of_threshold: ClassVar[tuple[str, ...]] = ("threshold",)  # parameters without a say where an amount decides

    def in_words(self, by_threshold: bool = True) -> str:
        """The criterion and what was set of it, as a report says it; `by_threshold`: no amount decides how much."""
        chosen = ", ".join(self.settings_in_words(by_threshold))
        return f"{type(self).model_fields['name'].default.replace('_', ' ')}{' with ' if chosen else ''}{chosen}"

    def settings_in_words(self, by_threshold: bool = True) -> list[str]:
        """What was set otherwise than by default, and has a say."""
        silent = () if by_threshold else self.of_threshold
        return [f"{name} {getattr(self, name)}" for name in self.chosen() if name not in silent]

    def chosen(self) -> list[str]:
        """The parameters that were set otherwise than by default."""
        return [name for name, value in self if value != type(self).model_fields[name].default]

    def usual_compensation(self) -> str:
        """What a request without a compensation gets."""
        return self.default_compensation

    def usual_amount(self) -> dict[str, object]:
        """What a request without an amount gets."""
        return {"threshold": True}

    @abstractmethod
    def needs_data(self) -> bool:
        """Whether the criterion itself looks at calibration data."""

    def needs_grams(self) -> bool:
        """Whether it looks at how the units of a group go together over that data."""
        return self.needs_data()

    def comparable(self) -> bool:
        """Whether the scores of units in different groups are in one currency, so that they may be ranked together."""
        return False

    def watches_readers(self) -> bool:
        """Whether the criterion asks what the layers that read a unit see."""
        return False

    def counts_zeros(self) -> bool:
        """Whether the criterion asks how often a unit is exactly zero."""
        return False

    def reads_inputs(self) -> Literal["norms", "grams"] | None:
        """What a criterion of single weights asks of each layer's inputs."""
        return None

    def needs_history(self) -> bool:
        """Whether the criterion looks at the history of the training."""
        return False

    def own_share(self) -> float | None:
        """The share of the weights that the criterion's pattern removes, where it says so by itself."""
        return None

    def prunes_weights(self) -> bool:
        """True for unstructured criteria: they zero single weights and leave every shape as it is."""
        return False

    def names_partners(self) -> bool:
        """Whether each removed unit comes with the kept unit that stands in for it."""
        return False

    @abstractmethod
    def has_threshold(self) -> bool:
        """Whether `amount: {"threshold": true}` means something with these parameters."""
