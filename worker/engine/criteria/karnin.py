"""Karnin's sensitivity, of single weights or summed over the incoming weights of a unit: the least goes first."""

from dataclasses import dataclass

import numpy as np

from schemas.criteria import Karnin
from worker.engine.criteria.evidence import Evidence
from worker.engine.criteria.layers import LayerEvidence
from worker.engine.criteria.scored import ScoredRanking
from worker.engine.observe import Float


@dataclass(frozen=True)
class KarninRanking(ScoredRanking):
    parameters: Karnin

    def scores(self, evidence: Evidence) -> Float:
        """Sums over incoming weights, normalised in the group."""
        found = evidence.sensitivities
        sums: Float = (np.abs(found) if self.parameters.normalise == "abs" else found).sum(axis=1)
        return self._normalised(sums)

    def weight_scores(self, layer: LayerEvidence) -> Float:
        assert layer.sensitivities is not None, "the request's history was read"
        return self._normalised(layer.sensitivities)

    def threshold(self) -> float | None:
        return self.parameters.threshold

    def _normalised(self, found: Float) -> Float:
        """From 0 to 1, unless it is to stay as it is. Where all are equal none is more sensitive than another: 0."""
        if self.parameters.normalise == "none":
            return found
        found = np.abs(found) if self.parameters.normalise == "abs" else found - found.min(initial=np.inf)
        most = float(found.max(initial=0.0))
        return found / most if most > 0 else found
