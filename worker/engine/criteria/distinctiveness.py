"""Distinctiveness (Gedeon and Harris 1991; Zheng): units whose activation vectors point the same way do the same
work.

The threshold form is the papers' pairwise iteration in unit order, or takes the closest pair that is left. The ordered
form always takes the closest pair next. What a kept unit takes over changes its outgoing weights, not its activations:
the angles of the pairs that are left stay as they were.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

import numpy as np

from schemas.criteria import Distinctiveness
from worker.engine.criteria.evidence import Evidence, Step, angles_deg, together
from worker.engine.observe import Float

DEAD = 1e-6  # a unit whose activity is below this share of the most active one's never fires


@dataclass(frozen=True)
class DistinctivenessRanking:
    parameters: Distinctiveness

    def by_threshold(self, evidence: Evidence) -> tuple[Step, ...]:
        """Unit i is compared with each later unit j: similar, j goes; opposite, both go and i is done with."""
        if self.parameters.iterate == "closest":
            return self._closest_first(evidence)
        angles = self._angles(evidence)
        steps = self._dead(evidence)
        alive = np.ones(evidence.units, dtype=bool)
        alive[[step.unit for step in steps]] = False
        for i in range(evidence.units):
            if not alive[i]:
                continue
            for j in _beyond(angles[i], alive, i, self.parameters):
                alive[j] = False
                angle = float(angles[i, j])
                if angle < self.parameters.angle_deg:
                    steps.append(Step(j, "similar", i, angle))
                    continue
                alive[i] = False
                steps += [Step(j, "opposite", i, angle), Step(i, "opposite", j, angle)]
                break
        return tuple(steps)

    def in_order(self, evidence: Evidence) -> tuple[Step, ...]:
        """Dead units, then the later unit of the closest pair, again and again."""
        steps = self._dead(evidence)[: evidence.units - 1]
        similar = _closest(self._angles(evidence), [step.unit for step in steps])
        return (*steps, *islice(similar, evidence.units - 1 - len(steps)))

    def _closest_first(self, evidence: Evidence) -> tuple[Step, ...]:
        """Dead units, similar ones from the closest pair on, then opposite ones from the most opposite on."""
        steps, angles = self._dead(evidence), self._angles(evidence)
        gone = [step.unit for step in steps]
        limit = self.parameters.angle_deg
        steps += takewhile(lambda step: step.angle_deg is not None and step.angle_deg < limit, _closest(angles, gone))
        gone = [step.unit for step in steps]
        angles = np.triu(angles, 1)
        angles[gone, :] = 0
        angles[:, gone] = 0
        while (angle := angles.max()) > self.parameters.opposite_deg:
            i, j = (int(one) for one in np.unravel_index(angles.argmax(), angles.shape))
            steps += [Step(j, "opposite", i, float(angle)), Step(i, "opposite", j, float(angle))]
            angles[[i, j], :] = 0
            angles[:, [i, j]] = 0
        return tuple(steps)

    def _angles(self, evidence: Evidence) -> Float:
        if self.parameters.on == "weights":
            return angles_deg(_products(evidence))
        return angles_deg(together(evidence.sites, self.parameters.centre))

    def _dead(self, evidence: Evidence) -> list[Step]:
        if not self.parameters.dead_units:
            return []
        grams = [site.gram for site in evidence.sites] or [_products(evidence)]
        activity = np.sqrt(np.sum([np.diag(gram) for gram in grams], axis=0))
        return [Step(int(unit), "dead") for unit in np.flatnonzero(activity <= DEAD * activity.max())]


def _closest(angles: Float, gone: Sequence[int]) -> Iterator[Step]:
    """The later unit of the closest pair goes, again and again, until one unit is left."""
    distance = angles.copy()
    for unit in range(len(distance)):
        distance[unit, : unit + 1] = np.inf
    distance[gone, :] = np.inf
    distance[:, gone] = np.inf
    nearest = distance.argmin(axis=1)
    closest = distance[np.arange(len(distance)), nearest]
    while np.isfinite(closest.min()):
        i = int(closest.argmin())
        j = int(nearest[i])
        yield Step(j, "similar", i, float(closest[i]))
        distance[j, :] = np.inf
        distance[:, j] = np.inf
        closest[j] = np.inf
        for row in np.flatnonzero(nearest == j):
            nearest[row] = distance[row].argmin()
            closest[row] = distance[row, nearest[row]]


def _products(evidence: Evidence) -> Float:
    rows = evidence.rows
    return rows @ rows.T


def _beyond(row: Float, alive: "np.typing.NDArray[np.bool_]", i: int, parameters: Distinctiveness) -> list[int]:
    """Living units after i that are similar or opposite to it, in order."""
    far = (row < parameters.angle_deg) | (row > parameters.opposite_deg)
    return [int(j) for j in np.flatnonzero(far & alive) if j > i]
