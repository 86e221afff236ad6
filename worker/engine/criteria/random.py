"""Random: units or weights go in an order drawn from the evidence's generator."""

from dataclasses import dataclass

from schemas.criteria import Random
from worker.engine.criteria.evidence import Evidence
from worker.engine.criteria.layers import LayerEvidence
from worker.engine.criteria.scored import ScoredRanking
from worker.engine.observe import Float


@dataclass(frozen=True)
class RandomRanking(ScoredRanking):
    parameters: Random

    def scores(self, evidence: Evidence) -> Float:
        return evidence.generator().random(evidence.units)

    def weight_scores(self, layer: LayerEvidence) -> Float:
        return layer.generator().random(layer.weights.shape)

    def threshold(self) -> float | None:
        return None
