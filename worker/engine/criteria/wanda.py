"""Wanda: the absolute value of a weight times the root mean square of what it reads (Sun 2023, equation 1)."""

from dataclasses import dataclass

import numpy as np

from schemas.criteria import Wanda
from worker.engine.criteria.layers import LayerEvidence
from worker.engine.observe import Float


@dataclass(frozen=True)
class WandaRanking:
    parameters: Wanda

    def weight_scores(self, layer: LayerEvidence) -> Float:
        assert layer.inputs is not None, "layers without inputs are passed over"
        return np.abs(layer.weights) * layer.inputs.norms(len(layer.weights))

    def threshold(self) -> float | None:
        return self.parameters.threshold
