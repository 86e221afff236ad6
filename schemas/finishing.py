"""What may follow the cut: training against the uploaded model, and rounding to eight bits. Both need no labels.

In: nothing. Out: the options `distill` and `quantize`, as objects or in short: `true`, `"int8"`. Refused: other words.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from schemas.sentences import got
from schemas.strict import Strict


class Distill(Strict):
    """Train what is left to give what the uploaded model gives, on the calibration data; labels are not looked at."""

    epochs: int = Field(default=20, ge=1, le=10_000, description="At most so many passes over the samples to fit.")
    seconds: float = Field(
        default=300.0, gt=0, description="At most so long; the learning rate falls to zero by whichever comes first."
    )
    learning_rate: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="How far a step moves a weight, at its highest, as a share of each weight tensor's own size (its "
        "root mean square).",
    )
    batch: int = Field(
        default=32,
        ge=1,
        le=65_536,
        description="Samples in a step. Cores share them out: with several, a larger step takes less time a sample.",
    )
    features: float = Field(
        default=4.0,
        ge=0,
        description="The weight of what the layers in between read, beside that of the outputs; 0: the outputs alone.",
    )
    augment: Literal["none", "shift", "flip", "warp"] = Field(
        default="none",
        description="For images: `shift` moves each by up to an eighth of its size, `flip` also mirrors half of them "
        "left to right, `warp` also turns, zooms, stretches and shears half of them a little. The uploaded model says "
        "what the changed images are.",
    )


class Quantize(Strict):
    """Round weights and activations to eight bits (QDQ nodes), calibrated on the samples to fit."""

    weights: Literal["per_tensor", "per_channel"] = Field(
        default="per_channel", description="One scale for each weight tensor, or one for each output channel."
    )
    ranges: Literal["minmax", "percentile"] = Field(
        default="minmax",
        description="The range of an activation: all values, or all but one in a hundred thousand at either end.",
    )


def _in_full(raw: Any) -> Any:
    """An object for `true`, nothing for `false`."""
    if isinstance(raw, bool):
        return {} if raw else None
    if isinstance(raw, str):
        raise ValueError(f"give true or an object, such as {{}}{got(raw)}")
    return raw


def _quantize_in_full(raw: Any) -> Any:
    """The only arithmetic that there is may be named."""
    if isinstance(raw, str) and raw != "int8":
        raise ValueError(f'give "int8", true or an object, such as {{}}{got(raw)}')
    return _in_full({} if raw == "int8" else raw)


Distilling = Annotated[Distill | None, BeforeValidator(_in_full, json_schema_input_type=Distill | bool | None)]
Quantizing = Annotated[
    Quantize | None, BeforeValidator(_quantize_in_full, json_schema_input_type=Quantize | Literal["int8"] | bool | None)
]
