"""The table of criteria: parameters of a request -> the ranking they ask for. One file each."""

from schemas.criteria import Criterion as Parameters
from schemas.criteria import Distinctiveness, Magnitude
from worker.engine.criteria.distinctiveness import DistinctivenessRanking
from worker.engine.criteria.evidence import Criterion
from worker.engine.criteria.magnitude import MagnitudeRanking


def ranking(parameters: Parameters) -> Criterion:
    """The ranking for a criterion's parameters."""
    match parameters:
        case Distinctiveness():
            return DistinctivenessRanking(parameters)
        case Magnitude():
            return MagnitudeRanking(parameters)
