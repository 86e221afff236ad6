"""Scales of batch normalisation: units whose |gamma| is small go first (Liu 2017).

Refused: groups without a BatchNormalization.
"""

from dataclasses import dataclass

import numpy as np

from schemas.criteria import BnScale
from worker.engine.criteria.evidence import Evidence
from worker.engine.criteria.scored import ScoredRanking
from worker.engine.observe import Float


@dataclass(frozen=True)
class BnScaleRanking(ScoredRanking):
    parameters: BnScale

    def scores(self, evidence: Evidence) -> Float:
        scales: Float = np.abs(evidence.scales).mean(axis=1)
        return scales

    def threshold(self) -> float | None:
        return self.parameters.threshold


def obstacle(evidence: Evidence) -> str | None:
    """Why the criterion has no say on a group."""
    if evidence.scales.shape[1]:
        return None
    return "no BatchNormalization is behind its units: there is none in the network, or the export folded it away"
