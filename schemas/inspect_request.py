"""Everything a caller may choose about one inspection.

In: a JSON object. Out: `InspectRequest`. Refused: what `schemas.parse` refuses, options of a pruning among it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from schemas.parse import parse
from schemas.request import JobKind, Preprocess, Scope
from schemas.strict import Strict


class InspectRequest(Strict):
    """Everything a caller may choose about one inspection: what a pruning of the same model would see."""

    kind: ClassVar[JobKind] = "inspect"
    seed: ClassVar[int] = 0  # of the noise that stands in for data: only its shape counts

    scope: Scope = Field(default_factory=Scope)
    lossy: bool = Field(default=False, description="As in a pruning; without it, pins say whether it would open them.")
    preprocess: Preprocess = Field(default_factory=Preprocess)
    sample_axes: dict[str, Annotated[int, Field(ge=0)] | None] = Field(
        default_factory=dict,
        description="The axis that counts samples, by input or output; null for an input that is the same for all "
        "samples. What is left out is found from the model.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the job runs.")

    def needs_data(self) -> bool:
        """Never by itself; a model whose open dimensions fit no usual size does, and says so when it is looked at."""
        return False

    def why_data(self) -> str:
        return "the model has open dimensions"

    def needs_history(self) -> bool:
        """Never: what an inspection tells does not depend on a training."""
        return False

    def why_history(self) -> str:
        return ""


def parse_inspection(raw: str | bytes | Mapping[str, Any]) -> InspectRequest:
    """Options from JSON text or a mapping; refuses as `schemas.parse` does."""
    return parse(raw, InspectRequest)
