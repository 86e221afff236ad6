"""All operators whose weights can be fitted, plain products and recurrent layers.

In: a graph, one execution's shapes and the groups. Out: `Consumer`s in the order of the graph, and for any other
operator a reason.
"""

from collections.abc import Iterable

from worker.engine.axes import Group
from worker.engine.graph import Graph, Op
from worker.engine.ops.recurrent import GATES
from worker.engine.refit.readings import Reading, reading_of
from worker.engine.refit.recurrent import Recurrence, recurrence_of
from worker.engine.ties import Seen

Consumer = Reading | Recurrence


def consumers(graph: Graph, seen: Seen, groups: Iterable[Group]) -> tuple[Consumer, ...]:
    """All that can be fitted, in order."""
    groups = tuple(groups)
    found = (consumer_of(graph, seen, op, groups) for op in graph.ops)
    return tuple(one for one in found if not isinstance(one, str))


def consumer_of(graph: Graph, seen: Seen, op: Op, groups: Iterable[Group]) -> Consumer | str:
    """An operator as something to be fitted, or why it is not."""
    return (recurrence_of if op.key in GATES else reading_of)(graph, seen, op, groups)
