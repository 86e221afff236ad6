"""SparseGPT: parameters and documentation."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.criteria.weights import PatternCriterion


class SparseGpt(PatternCriterion):
    """What a weight gave is made up for by the weights to its right that stay."""

    summary: ClassVar[str] = (
        "Optimal Brain Surgeon for single weights, column by column: zeroes the weights whose loss costs a layer's "
        "output least, and changes the others of the row so that they make up for it, by the Gram of what the layer "
        "reads. Convolutions and matrix products; recurrent layers stay, and the report says so."
    )
    use_when: ClassVar[str] = "You want zeros, many of them or in an n:m pattern, at little loss and without training."
    cost: ClassVar[str] = "One forward pass with a Gram for each layer; the square of a layer's inputs in memory."
    default_compensation: ClassVar[str] = "none"  # it has its own
    paper: ClassVar[str] = "Frantar and Alistarh, SparseGPT, 2023."

    name: Literal["sparsegpt"] = "sparsegpt"
    damping: float = Field(
        default=0.01, gt=0, le=10, description="Added to the diagonal of the Gram, as a share of its mean."
    )
    block_columns: int = Field(
        default=128, ge=1, le=4096, description="The share is taken of so many columns at a time, from left to right."
    )

    def needs_data(self) -> bool:
        return True

    def reads_inputs(self) -> Literal["norms", "grams"] | None:
        return "grams"

    def prunes_weights(self) -> bool:
        return True

    def has_threshold(self) -> bool:
        return False
