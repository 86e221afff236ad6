"""How much a pruning removes: the criterion's threshold, a share, what is to be kept, or whatever a search finds.

In: nothing. Out: `Amount`. Refused: none, two that exclude each other, shares that are none.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from schemas.strict import Strict

Share = Annotated[float, Field(gt=0, lt=1)]
KeepKind = Literal["keep_macs", "keep_parameters", "keep_file_bytes", "keep_peak_ram", "keep_latency"]
AmountKind = Literal["threshold", "remove_units", "remove_weights", "search", "keep"]
NAMES: dict[KeepKind, str] = {
    "keep_macs": "MACs",
    "keep_parameters": "parameters",
    "keep_file_bytes": "file",
    "keep_peak_ram": "peak RAM",
    "keep_latency": "latency",
}
ALONE = ("threshold", "remove_units", "remove_weights", "search")


class Amount(Strict):
    """How much to remove: exactly one of these, or several that say what to keep."""

    threshold: Literal[True] | None = Field(default=None, description="What the criterion's own threshold says.")
    remove_units: Share | None = Field(
        default=None,
        description="This share of the units: of every group, or of all together where `share_out` is `error`.",
    )
    remove_weights: Share | None = Field(default=None, description="This share of the weights (unstructured).")
    keep_macs: Share | None = Field(default=None, description="Keep this share of the multiply-accumulates.")
    keep_parameters: Share | None = Field(default=None, description="Keep this share of the parameters.")
    keep_file_bytes: Share | None = Field(default=None, description="Keep this share of the file, as estimated.")
    keep_peak_ram: Share | None = Field(default=None, description="Keep this share of the most RAM for activations.")
    keep_latency: Share | None = Field(
        default=None,
        description="Keep this share of the latency where the job runs, as estimated from each operator's part of it. "
        "The time that a target would take follows the MACs.",
    )
    search: Literal[True] | None = Field(
        default=None,
        description="As much as `constraints` and `target` allow or ask for; what a request with these gets that "
        "gives no amount.",
    )

    @model_validator(mode="after")
    def _one_or_several_to_keep(self) -> "Amount":
        given = self._given()
        alone = [name for name in given if name in ALONE]
        if not given or (alone and len(given) > 1):
            raise ValueError(
                f"give exactly one of {', '.join(ALONE)}, or one or more of {', '.join(get_args(KeepKind))}; "
                f"got {', '.join(given) or 'none'}"
            )
        return self

    def _given(self) -> list[str]:
        return [name for name in type(self).model_fields if getattr(self, name) is not None]

    def named(self) -> str:
        """As it was asked for."""
        return " and ".join(repr(name) for name in self._given())

    @property
    def kind(self) -> AmountKind:
        for name in get_args(AmountKind):
            if name != "keep" and getattr(self, name) is not None:
                return name  # type: ignore[no-any-return]  # a member of AmountKind by construction
        return "keep"

    @property
    def share(self) -> float:
        """The number behind `remove_units` and `remove_weights`."""
        return float(self.remove_units or self.remove_weights or 0.0)

    @property
    def keeps(self) -> dict[KeepKind, float]:
        """The shares to keep."""
        return {name: getattr(self, name) for name in get_args(KeepKind) if getattr(self, name) is not None}

    def in_words(self) -> str:
        """For the middle of a sentence."""
        share = f"{100 * self.share:.4g} %"
        words = {
            "threshold": "by threshold",
            "remove_units": f"removing {share} of the units",
            "remove_weights": f"removing {share} of the weights",
            "search": "as much as the constraints ask for or allow",
        }
        keeps = " and ".join(f"{100 * kept:.4g} % of the {NAMES[name]}" for name, kept in self.keeps.items())
        return words.get(self.kind, f"keeping {keeps}")
