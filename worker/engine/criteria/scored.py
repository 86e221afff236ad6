"""A criterion that gives each unit a score of its own: the lowest goes first.

In: evidence on a group. Out: steps in the order of the scores; with a threshold, those below it.
"""

from abc import ABC, abstractmethod

import numpy as np

from worker.engine.criteria.evidence import Evidence, Step
from worker.engine.observe import Float


class ScoredRanking(ABC):
    """What such a criterion fills in: its scores, and its threshold where its parameters have one."""

    @abstractmethod
    def scores(self, evidence: Evidence) -> Float:
        """One number for each unit."""

    @abstractmethod
    def threshold(self) -> float | None:
        """Units with a smaller score go, where the amount is the criterion's own threshold."""

    def by_threshold(self, evidence: Evidence) -> tuple[Step, ...]:
        limit = self.threshold()
        assert limit is not None, "the request's validator asks for it"
        return tuple(step for step in self._steps(evidence) if step.score is not None and step.score < limit)

    def in_order(self, evidence: Evidence) -> tuple[Step, ...]:
        return self._steps(evidence)[:-1]

    def _steps(self, evidence: Evidence) -> tuple[Step, ...]:
        scores = self.scores(evidence)
        order = np.argsort(scores, kind="stable")
        return tuple(Step(int(unit), "small", score=float(scores[unit])) for unit in order)
