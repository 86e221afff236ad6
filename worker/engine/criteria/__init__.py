"""The table of criteria: parameters of a request -> the ranking they ask for. One file each."""

from collections.abc import Callable, Mapping

from schemas.criteria import Criterion as Parameters
from schemas.errors import EspalierError
from worker.engine.criteria import apoz, bn_scale
from worker.engine.criteria.apoz import ApozRanking
from worker.engine.criteria.bn_scale import BnScaleRanking
from worker.engine.criteria.brute_force import BruteForceRanking
from worker.engine.criteria.distinctiveness import DistinctivenessRanking
from worker.engine.criteria.evidence import Criterion, Evidence
from worker.engine.criteria.fpgm import FpgmRanking
from worker.engine.criteria.karnin import KarninRanking
from worker.engine.criteria.layers import WeightRanking, WeightSolver
from worker.engine.criteria.magnitude import MagnitudeRanking
from worker.engine.criteria.obs import ObsRanking
from worker.engine.criteria.random import RandomRanking
from worker.engine.criteria.sparsegpt import SparseGptSolver
from worker.engine.criteria.taylor1 import Taylor1Ranking
from worker.engine.criteria.taylor2 import Taylor2Ranking
from worker.engine.criteria.wanda import WandaRanking

RANKINGS: Mapping[str, Callable[..., Criterion]] = {
    "apoz": ApozRanking,
    "bn_scale": BnScaleRanking,
    "brute_force": BruteForceRanking,
    "distinctiveness": DistinctivenessRanking,
    "fpgm": FpgmRanking,
    "karnin": KarninRanking,
    "magnitude": MagnitudeRanking,
    "obs": ObsRanking,
    "random": RandomRanking,
    "taylor1": Taylor1Ranking,
    "taylor2": Taylor2Ranking,
}


# The criteria that can rank single weights.
WEIGHTS: Mapping[str, Callable[..., WeightRanking]] = {
    "karnin": KarninRanking,
    "magnitude": MagnitudeRanking,
    "random": RandomRanking,
    "wanda": WandaRanking,
}

# Those that choose weights and change the others.
SOLVERS: Mapping[str, Callable[..., WeightSolver]] = {"sparsegpt": SparseGptSolver}

# Why a criterion has no say on a group; those that are not here have one on every group.
OBSTACLES: Mapping[str, Callable[[Evidence], str | None]] = {
    "apoz": apoz.obstacle,
    "bn_scale": bn_scale.obstacle,
}


def ranking(parameters: Parameters) -> Criterion:
    """The ranking of units for a criterion's parameters."""
    return RANKINGS[parameters.name](parameters)


def passed_over(parameters: Parameters, evidence: Mapping[str, Evidence]) -> dict[str, str]:
    """The groups that the criterion has no say on, and why. Refused: a request in which that is every group."""
    look = OBSTACLES.get(parameters.name)
    found = {name: why for name, one in evidence.items() if look is not None and (why := look(one))}
    if found and len(found) == len(evidence):
        told = "; ".join(f"{name}: {why}" for name, why in list(found.items())[:5])
        raise EspalierError("criterion_not_applicable", told, where="/criterion")
    return found
