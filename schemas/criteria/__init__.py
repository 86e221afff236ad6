"""The pruning criteria: one class each = its parameters and their documentation. A tagged union on `name`.

A new criterion is one file here, one line in the union and in `CRITERIA`, and one file in `worker/engine/criteria/`.
"""

from typing import Annotated

from pydantic import Field

from schemas.criteria.base import CriterionBase
from schemas.criteria.distinctiveness import Distinctiveness
from schemas.criteria.magnitude import Magnitude
from schemas.criteria.random import Random

__all__ = [
    "CRITERIA",
    "Criterion",
    "CriterionBase",
    "Distinctiveness",
    "Magnitude",
    "Random",
]

Criterion = Annotated[
    Distinctiveness | Magnitude | Random,
    Field(discriminator="name"),
]

CRITERIA: dict[str, type[CriterionBase]] = {
    "distinctiveness": Distinctiveness,
    "magnitude": Magnitude,
    "random": Random,
}
