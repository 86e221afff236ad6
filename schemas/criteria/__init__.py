"""The pruning criteria: one class each = its parameters and their documentation. A tagged union on `name`.

A new criterion is one file here, one line in the union and in `CRITERIA`, and one file in `worker/engine/criteria/`.
"""

from typing import Annotated

from pydantic import Field

from schemas.criteria.apoz import Apoz
from schemas.criteria.base import CriterionBase
from schemas.criteria.bn_scale import BnScale
from schemas.criteria.brute_force import BruteForce
from schemas.criteria.distinctiveness import Distinctiveness
from schemas.criteria.fpgm import Fpgm
from schemas.criteria.karnin import Karnin
from schemas.criteria.magnitude import Magnitude
from schemas.criteria.random import Random
from schemas.criteria.taylor1 import Taylor1
from schemas.criteria.taylor2 import Taylor2

__all__ = [
    "CRITERIA",
    "Apoz",
    "BnScale",
    "BruteForce",
    "Criterion",
    "CriterionBase",
    "Distinctiveness",
    "Fpgm",
    "Karnin",
    "Magnitude",
    "Random",
    "Taylor1",
    "Taylor2",
]

Criterion = Annotated[
    Apoz | BnScale | BruteForce | Distinctiveness | Fpgm | Karnin | Magnitude | Random | Taylor1 | Taylor2,
    Field(discriminator="name"),
]

CRITERIA: dict[str, type[CriterionBase]] = {
    "apoz": Apoz,
    "bn_scale": BnScale,
    "brute_force": BruteForce,
    "distinctiveness": Distinctiveness,
    "fpgm": Fpgm,
    "karnin": Karnin,
    "magnitude": Magnitude,
    "random": Random,
    "taylor1": Taylor1,
    "taylor2": Taylor2,
}
