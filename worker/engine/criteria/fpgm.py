"""FPGM: units whose incoming weights are near those of all others go first (He 2019, equation 5)."""

from dataclasses import dataclass

import numpy as np

from schemas.criteria import Fpgm
from worker.engine.criteria.evidence import Evidence
from worker.engine.criteria.scored import ScoredRanking
from worker.engine.observe import Float


@dataclass(frozen=True)
class FpgmRanking(ScoredRanking):
    parameters: Fpgm

    def scores(self, evidence: Evidence) -> Float:
        rows = evidence.rows
        if self.parameters.distance == "cosine":
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
            between = 1.0 - rows @ rows.T
        else:
            gram = rows @ rows.T
            squares = np.diag(gram)
            between = np.sqrt(np.clip(squares[:, None] + squares[None, :] - 2 * gram, 0, None))
        np.fill_diagonal(between, 0.0)
        total: Float = between.sum(axis=1)
        return total

    def threshold(self) -> float | None:
        return None
