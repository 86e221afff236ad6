"""The pruning criteria: one class each = its parameters and their documentation. A tagged union on `name`.

A new criterion is one file here, one line in the union and in `CRITERIA`, and one file in `worker/engine/criteria/`.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import Field

from schemas.criteria.apoz import Apoz
from schemas.criteria.base import CriterionBase
from schemas.criteria.bn_scale import BnScale
from schemas.criteria.brute_force import BruteForce
from schemas.criteria.distinctiveness import Distinctiveness
from schemas.criteria.fpgm import Fpgm
from schemas.criteria.karnin import Karnin
from schemas.criteria.magnitude import Magnitude
from schemas.criteria.obs import Obs
from schemas.criteria.random import Random
from schemas.criteria.sparsegpt import SparseGpt
from schemas.criteria.taylor1 import Taylor1
from schemas.criteria.taylor2 import Taylor2
from schemas.criteria.wanda import Wanda

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
    "Obs",
    "Random",
    "SparseGpt",
    "Taylor1",
    "Taylor2",
    "Wanda",
    "with_name",
]

Criterion = Annotated[
    Apoz
    | BnScale
    | BruteForce
    | Distinctiveness
    | Fpgm
    | Karnin
    | Magnitude
    | Obs
    | Random
    | SparseGpt
    | Taylor1
    | Taylor2
    | Wanda,
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
    "obs": Obs,
    "random": Random,
    "sparsegpt": SparseGpt,
    "taylor1": Taylor1,
    "taylor2": Taylor2,
    "wanda": Wanda,
}


def with_name(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """A criterion's parameters; without a name that of the one criterion that has them, or has what they look like:
    `{"angle_deg": 20}` says enough. Where none or several do, the name stays out."""
    if "name" in parameters:
        return parameters
    known = {name: kind.model_fields.keys() for name, kind in CRITERIA.items()}
    every = sorted({field for fields in known.values() for field in fields})
    close = {one for key in parameters for one in get_close_matches(str(key), every, n=1)}
    fits = [name for name, fields in known.items() if close <= fields]
    return {"name": fits[0], **parameters} if close and len(fits) == 1 else parameters
