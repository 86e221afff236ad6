"""Magnitude: the norm of a unit's incoming weights (Fathollahi's second method; Li 2017), or the absolute value of a
single weight (Fathollahi's first; Han 2015)."""

from dataclasses import dataclass

import numpy as np

from schemas.criteria import Magnitude
from worker.engine.criteria.evidence import Evidence
from worker.engine.criteria.layers import LayerEvidence
from worker.engine.criteria.scored import ScoredRanking
from worker.engine.observe import Float


@dataclass(frozen=True)
class MagnitudeRanking(ScoredRanking):
    parameters: Magnitude

    def scores(self, evidence: Evidence) -> Float:
        norms: Float = np.linalg.norm(evidence.rows, ord=1 if self.parameters.norm == "l1" else 2, axis=1)
        return norms

    def weight_scores(self, layer: LayerEvidence) -> Float:
        return np.abs(layer.weights)

    def threshold(self) -> float | None:
        return self.parameters.threshold
