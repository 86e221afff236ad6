"""Taylor-1 (Wolfe, Sharma and Raj): the loss with a gate closed is about the loss minus its slope there."""

from dataclasses import dataclass

from schemas.criteria.taylor1 import Taylor1
from worker.engine.criteria.by_loss import LossRanking
from worker.engine.gates import Gates
from worker.engine.observe import Float
from worker.engine.trials import Units


@dataclass(frozen=True)
class Taylor1Ranking(LossRanking):
    parameters: Taylor1

    def changes(self, gates: Gates, left: Units) -> Float:
        gates.ask_for_labels()
        changes: Float = -gates.slopes()[left]
        return changes
