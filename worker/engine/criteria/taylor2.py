"""Taylor-2 (Wolfe, Sharma and Raj): minus the slope of the loss in the gate, plus half its curvature.

Against the model's own answers the slope of an untouched model is zero: the loss is at its least there.
"""

from dataclasses import dataclass

from schemas.criteria.taylor2 import Taylor2
from worker.engine.criteria.by_loss import LossRanking
from worker.engine.gates import Gates
from worker.engine.observe import Float
from worker.engine.trials import Units


@dataclass(frozen=True)
class Taylor2Ranking(LossRanking):
    parameters: Taylor2

    def changes(self, gates: Gates, left: Units) -> Float:
        changes: Float = (gates.curvatures(self.parameters.hessian) / 2 - gates.slopes())[left]
        return changes
