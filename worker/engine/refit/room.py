"""How many samples teacher and student can be walked with side by side, reading by reading.

In: a graph, one execution's shapes and types, the readings in order. Out: for each reading so many samples. Maps grow
smaller on the way through most networks, so that samples for which there is no room in front join later on: what they
are walked through is what all the others have been walked through.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import prod

import numpy as np

from worker.engine.graph import Graph
from worker.engine.refit.consumers import Consumer
from worker.engine.refit.readings import Reading
from worker.engine.ties import Seen

LIVE_BYTES = 768 << 20  # what both models hold of all samples between two readings
SMALLEST_NUMBER = 4  # bytes: half precision is computed in single


def rooms(graph: Graph, seen: Seen, readings: Sequence[Consumer]) -> list[int]:
    """At least one; never fewer than at the reading before."""
    alive = _alive(graph, seen)
    needs = [2 * (alive[one.op.index] + _bytes(seen, _end(one))) for one in readings]
    most = list(accumulate(reversed(needs), max))[::-1]  # whoever has joined stays to the end
    samples = graph.fixed_batch() or 1
    return [max(samples * LIVE_BYTES // max(one, 1), 1) for one in most]


def _end(one: Consumer) -> str:
    return one.tail.end if isinstance(one, Reading) else one.op.outputs[0]


def _alive(graph: Graph, seen: Seen) -> list[int]:
    """Bytes of all values that wait, before each operator, for somebody to read them."""
    last = {name: op.index for op in graph.ops for name in (*op.inputs, *op.captures)}
    change = [0] * (len(graph.ops) + 1)
    made = [(port.name, 0) for port in graph.inputs] + [(name, op.index + 1) for op in graph.ops for name in op.outputs]
    for name, start in made:
        if name in last and name not in graph.static and last[name] >= start:
            change[start] += _bytes(seen, name)
            change[last[name] + 1] -= _bytes(seen, name)
    return list(accumulate(change))


def _bytes(seen: Seen, name: str) -> int:
    if name not in seen.shapes:
        return 0
    return prod(seen.shapes[name]) * max(seen.dtypes.get(name, np.dtype(np.float32)).itemsize, SMALLEST_NUMBER)
