"""Brute force (Wolfe, Sharma and Raj; Mozer and Smolensky): the loss with the unit taken away, minus that with it."""

from dataclasses import dataclass
from math import ceil

import numpy as np

from schemas.criteria.brute_force import BruteForce
from worker.engine.criteria.by_loss import LossRanking
from worker.engine.criteria.evidence import Step
from worker.engine.gates import Gates
from worker.engine.observe import Float
from worker.engine.trials import Units


@dataclass(frozen=True)
class BruteForceRanking(LossRanking):
    parameters: BruteForce

    def changes(self, gates: Gates, left: Units) -> Float:
        return gates.changes(left)

    def ranked(self, gates: Gates, left: Units) -> list[Step]:
        """With a cascade: those that signed Taylor-1 puts first as they turn out, then the others as it says."""
        if self.parameters.cascade is None:
            return super().ranked(gates, left)
        gates.ask_for_labels()
        guessed = -gates.slopes()[left]
        order = np.argsort(guessed, kind="stable")
        first, others = np.split(order, [ceil(self.parameters.cascade * len(left))])
        return super().ranked(gates, left[first]) + self.by_score(guessed[others], left[others])
