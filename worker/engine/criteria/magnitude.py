"""Magnitude of units: the norm of a unit's incoming weights (Fathollahi's second method; Li 2017).

Magnitude of single weights does not rank units: it is in `sparsify`.
"""

from dataclasses import dataclass

import numpy as np

from schemas.criteria import Magnitude
from worker.engine.criteria.evidence import Evidence, Step
from worker.engine.observe import Float


@dataclass(frozen=True)
class MagnitudeRanking:
    parameters: Magnitude

    def by_threshold(self, evidence: Evidence) -> tuple[Step, ...]:
        limit = self.parameters.threshold
        assert limit is not None, "the request's validator asks for it"
        norms = self._norms(evidence)
        return tuple(Step(int(unit), "small") for unit in np.argsort(norms, kind="stable") if norms[unit] < limit)

    def in_order(self, evidence: Evidence) -> tuple[Step, ...]:
        order = np.argsort(self._norms(evidence), kind="stable")
        return tuple(Step(int(unit), "small") for unit in order[:-1])

    def _norms(self, evidence: Evidence) -> Float:
        norms: Float = np.linalg.norm(evidence.rows, ord=1 if self.parameters.norm == "l1" else 2, axis=1)
        return norms
