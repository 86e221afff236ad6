"""Criteria that ask what the loss does when a unit goes: one ranking, or another one after every removal.

In: evidence whose gates can be opened. Out: steps, each with the change of the loss that its criterion expects of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice, takewhile

import numpy as np

from schemas.criteria.loss import LossCriterion
from worker.engine.criteria.evidence import Evidence, Step
from worker.engine.gates import Gates
from worker.engine.observe import Float
from worker.engine.trials import Units


class LossRanking(ABC):
    """What such a criterion fills in: the changes that it expects."""

    parameters: LossCriterion

    @abstractmethod
    def changes(self, gates: Gates, left: Units) -> Float:
        """The change of the loss for each unit that is left, with some gates closed already."""

    def by_threshold(self, evidence: Evidence) -> tuple[Step, ...]:
        limit = self.parameters.threshold
        assert limit is not None, "the request's validator asks for it"
        pick = takewhile if self.parameters.order == "rerank" else filter
        return tuple(pick(lambda step: step.score is not None and step.score < limit, self._steps(evidence)))

    def in_order(self, evidence: Evidence) -> tuple[Step, ...]:
        return tuple(islice(self._steps(evidence), evidence.units - 1))

    def ranked(self, gates: Gates, left: Units) -> list[Step]:
        """The units that are left, in the order of their scores."""
        return self.by_score(self.changes(gates, left), left)

    def by_score(self, changes: Float, left: Units) -> list[Step]:
        scores = changes if self.parameters.signed else np.abs(changes)
        return [Step(int(left[at]), "small", score=float(scores[at])) for at in np.argsort(scores, kind="stable")]

    def _steps(self, evidence: Evidence) -> Iterator[Step]:
        assert evidence.open_gates is not None, "the run observed what this criterion wants"
        gates, left = evidence.open_gates(), np.arange(evidence.units)
        if self.parameters.order == "one_ranking":
            yield from self.ranked(gates, left)
            return
        while len(left):
            step = self.ranked(gates, left)[0]
            yield step
            gates.close(step.unit)
            left = left[left != step.unit]
