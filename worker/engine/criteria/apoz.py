"""APoZ: units that are zero most often where the next layer reads them go first (Hu 2016, equation 1).

Refused: groups whose units are never zero, for there is nothing to tell them apart by.
"""

from dataclasses import dataclass

import numpy as np

from schemas.criteria import Apoz
from worker.engine.criteria.evidence import Evidence
from worker.engine.criteria.scored import ScoredRanking
from worker.engine.observe import Float


@dataclass(frozen=True)
class ApozRanking(ScoredRanking):
    parameters: Apoz

    def scores(self, evidence: Evidence) -> Float:
        """The share of samples and positions in which a unit is not zero."""
        return 1.0 - share_of_zeros(evidence)

    def threshold(self) -> float | None:
        return None if self.parameters.threshold is None else 1.0 - self.parameters.threshold


def obstacle(evidence: Evidence) -> str | None:
    """Why the criterion has no say on a group."""
    return None if share_of_zeros(evidence).any() else "none of its activations is ever zero: no ReLU makes zeros there"


def share_of_zeros(evidence: Evidence) -> Float:
    """Over all places where the units are read."""
    zeros = np.zeros(evidence.units)
    for site in evidence.sites:
        assert site.zeros is not None, "observed because the criterion says that it counts them"
        zeros += site.zeros
    return zeros / max(sum(site.rows for site in evidence.sites), 1)
