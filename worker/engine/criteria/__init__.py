"""The table of criteria: parameters of a request -> the ranking they ask for. One file each."""

from collections.abc import Callable, Mapping

from schemas.criteria import Criterion as Parameters
from worker.engine.criteria.distinctiveness import DistinctivenessRanking
from worker.engine.criteria.evidence import Criterion
from worker.engine.criteria.magnitude import MagnitudeRanking
from worker.engine.criteria.random import RandomRanking

RANKINGS: Mapping[str, Callable[..., Criterion]] = {
    "distinctiveness": DistinctivenessRanking,
    "magnitude": MagnitudeRanking,
    "random": RandomRanking,
}


def ranking(parameters: Parameters) -> Criterion:
    """The ranking for a criterion's parameters."""
    return RANKINGS[parameters.name](parameters)
