"""What criteria of single weights have in common: which weights are compared, and the patterns that zeros may form."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from schemas.criteria.base import CriterionBase


class NOfM(BaseModel):
    """Of every `m` weights side by side in a row, `n` stay. What is left over at the end of a row stays whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(ge=1, description="How many stay.")
    m: int = Field(ge=2, le=1024, description="Of how many.")

    @model_validator(mode="after")
    def _some_go(self) -> "NOfM":
        if self.n >= self.m:
            raise ValueError(f"{self.n} of {self.m} leaves nothing to remove; n must be smaller than m")
        return self


class Blocks(BaseModel):
    """Weights go in blocks of a layer's matrix: outputs are its rows, inputs (channels times taps) its columns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(ge=1, le=1024)
    cols: int = Field(ge=1, le=1024)


PATTERNS: dict[str, type[BaseModel]] = {"n:m": NOfM, "blocks": Blocks}


def _which(raw: Any) -> str:
    """What the caller means, by its keys; nothing of both is better explained as the first."""
    keys = raw if isinstance(raw, dict) else vars(raw) if isinstance(raw, BaseModel) else {}
    return "blocks" if "rows" in keys or "cols" in keys else "n:m"


Pattern = Annotated[Annotated[NOfM, Tag("n:m")] | Annotated[Blocks, Tag("blocks")], Discriminator(_which)]


class PatternCriterion(CriterionBase):
    """A criterion that can rank single weights, which may go in a pattern."""

    pattern: Pattern | None = Field(
        default=None,
        description="For weights: null for zeros anywhere, {n, m} for n kept of every m in a row (2:4), {rows, cols} "
        "for blocks. {n, m} says itself how much goes: it takes no amount.",
    )

    def settings_in_words(self, by_threshold: bool = True) -> list[str]:
        said = [one for one in super().settings_in_words(by_threshold) if not one.startswith("pattern ")]
        return [*said, self.pattern_in_words()] if self.pattern else said

    def pattern_in_words(self) -> str:
        match self.pattern:
            case NOfM(n=n, m=m):
                return f"{n}:{m}"
            case Blocks(rows=rows, cols=cols):
                return f"in blocks of {rows} x {cols}"
            case None:
                return ""

    def own_share(self) -> float | None:
        return 1 - self.pattern.n / self.pattern.m if isinstance(self.pattern, NOfM) else None


class WeightCriterion(PatternCriterion):
    """One that gives every weight a score."""

    across: Literal["row", "layer", "global"] = Field(
        default="layer",
        description="For weights: the share is taken of every output's weights, of every layer's, or of all together.",
    )

    def refuse_for_units(self, of: Literal["units", "weights"]) -> None:
        """What is said of weights has no meaning for units."""
        if of == "units" and self.pattern is not None:
            raise ValueError('a pattern is one of single weights; use it with of: "weights"')
        if of == "units" and self.across != type(self).model_fields["across"].default:
            raise ValueError(f'across: "{self.across}" ranks single weights; use it with of: "weights"')
