"""What an error in each output of a reading is worth to the model that is left.

In: a graph, a reading, the groups and which units go. Out: a number for each output, one on average over those that
stay. An output that goes is worth nothing, once that is settled: to guess at units that are chosen later makes them the
ones to be chosen. Of the others each is worth what its readers make of it: the squares of their weights, each reader's
together counting as much as another's. All is one where nobody reads the outputs by weights.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from worker.engine import cost
from worker.engine.axes import Group
from worker.engine.graph import Graph
from worker.engine.observe import Float
from worker.engine.refit.readings import Reading


def worth(graph: Graph, reading: Reading, groups: Iterable[Group], gone: Mapping[str, tuple[int, ...]]) -> Float:
    """In the shape in which a number for each output stands beside what the reading gives."""
    found = np.ones(reading.linear.spread)
    for group in groups:
        for axis, size in enumerate(reading.linear.spread):
            if size > 1 and (index := group.sites.get((reading.tail.end, axis))) is not None:
                own = _of_units(graph, reading, group, gone.get(group.name, ()))
                along = np.moveaxis(found, axis, 0)
                along[index] *= own.reshape(-1, *[1] * along.ndim)
    return found


def _of_units(graph: Graph, reading: Reading, group: Group, gone: tuple[int, ...]) -> Float:
    stays = np.ones(group.units)
    stays[list(gone)] = 0.0
    read = np.zeros(group.units)
    for one in group.consumers:
        weight = graph.constants.get(one.weight)
        if one.op.index > reading.op.index and weight is not None and cost.is_real(weight):
            along = np.moveaxis(weight, one.weight_axis, 0)
            squares = np.square(along.reshape(len(along), -1), dtype=np.float64).sum(axis=1)
            own = squares[group.sites[one.weight, one.weight_axis]].sum(axis=1) * stays
            read += own / max(own.sum(), np.finfo(np.float64).tiny)
    found: Float = (read if read.any() else stays) * stays
    found *= stays.sum() / found.sum()
    return found
