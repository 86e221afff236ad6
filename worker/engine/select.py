"""Which units go: the criterion's own threshold, a share of every group, or budgets.

A budget is shared out by what units cost where their scores compare across groups, else evenly.

In: the request, the groups in scope, their evidence. Out: for each group the steps taken. Refused: a budget that even
the smallest model of the scope exceeds (`amount_unreachable`, naming the least that can be reached).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from math import floor

from schemas.request import PruneRequest, Scope
from worker.engine.axes import Group, Layer
from worker.engine.budget import Budget, Quantities, budget
from worker.engine.criteria.evidence import Criterion, Evidence, Step
from worker.engine.share import share_out
from worker.engine.shelf import IN_MEMORY, Shelf

HALVINGS = 40
SLACK = 1e-9  # 0.145 times 100 is 14.499999999999998


def in_scope(scope: Scope, layer: Layer) -> bool:
    """Whether any of a layer's names is included and none is excluded, and its operator is one of those wanted."""
    if scope.operators and layer.op.key not in scope.operators:
        return False
    hit = any(fnmatchcase(name, pattern) for name in layer.aliases for pattern in scope.include)
    return hit and not any(fnmatchcase(name, pattern) for name in layer.aliases for pattern in scope.exclude)


def group_in_scope(scope: Scope, group: Group) -> bool:
    """A group that several layers make is in scope if one of them is included and none excluded."""
    excluded = any(
        fnmatchcase(name, pattern) for layer in group.layers for name in layer.aliases for pattern in scope.exclude
    )
    return not excluded and any(in_scope(scope, layer) for layer in group.layers)


def choose(
    request: PruneRequest,
    criterion: Criterion,
    groups: Sequence[Group],
    evidence: Mapping[str, Evidence],
    quantities: Quantities,
    shelf: Shelf = IN_MEMORY,
) -> dict[str, tuple[Step, ...]]:
    """The steps each group takes. What lies on the shelf is looked at group by group."""
    keep, kind = request.scope.minimum_kept, request.amount.kind
    rank = criterion.by_threshold if kind == "threshold" else criterion.in_order
    orders: dict[str, tuple[Step, ...]] = {}
    for group in groups:
        orders[group.name] = _capped(rank(evidence[group.name]), group, keep)
        shelf.ease()
    if kind == "threshold":
        return orders
    stops = {group.name: _stops(group, len(orders[group.name]), request.round_to) for group in groups}
    share, of_units = request.amount.share, kind == "remove_units"
    if of_units and request.share_out == "uniform":
        return _evenly(share, groups, orders, stops)
    most = {name: some[-1] for name, some in stops.items()}
    limits = UnitsBudget(share, groups) if of_units else budget(request.amount.keeps, quantities, most)
    if request.share_out == "error":
        costs = {name: [step.score or 0.0 for step in steps] for name, steps in orders.items()}
        lost = share_out(costs, limits.over, 0.0, stops)
        return {name: orders[name][:count] for name, count in lost.items()}
    return _evenly(_share_for_budget(limits, groups, stops), groups, orders, stops)


@dataclass(frozen=True)
class UnitsBudget:
    """So many units of all groups together. What cannot be met takes all that may go, as it does group by group."""

    share: float
    groups: Sequence[Group]

    def over(self, lost: Mapping[str, int]) -> float:
        whole = sum(group.units for group in self.groups)
        return float(max(units_lost(self.share, whole) - sum(lost.values()), 0))


def _stops(group: Group, most: int, multiple: int) -> list[int]:
    """How many units a group may lose: what stays is a multiple, or all of it stays."""
    return [0, *(lost for lost in range(1, most + 1) if (group.units - lost) % multiple == 0)]


def _evenly(
    share: float, groups: Sequence[Group], orders: Mapping[str, tuple[Step, ...]], stops: Mapping[str, Sequence[int]]
) -> dict[str, tuple[Step, ...]]:
    """The same share of every group, or as near to it as the group may come."""
    lost = _lost(share, groups, stops)
    return {group.name: orders[group.name][: lost[group.name]] for group in groups}


def _lost(share: float, groups: Sequence[Group], stops: Mapping[str, Sequence[int]]) -> dict[str, int]:
    wanted = {group.name: units_lost(share, group.units) for group in groups}
    return {name: min(stops[name], key=partial(_distance, want)) for name, want in wanted.items()}


def _distance(want: int, stop: int) -> tuple[int, int]:
    """Of two that are equally near, the one that removes more."""
    return abs(stop - want), -stop


def units_lost(share: float, units: int) -> int:
    """The nearest whole number of units; half a unit goes, so that half of 5 is as half of 7 and not as half of 4."""
    return floor(share * units + 0.5 + SLACK)


def _capped(steps: tuple[Step, ...], group: Group, keep: int) -> tuple[Step, ...]:
    """Never below the minimum kept; an opposite pair goes whole or not at all."""
    room = max(group.units - keep, 0)
    kept = steps[:room]
    if kept and len(steps) > room and kept[-1].why == "opposite" and kept[-1].partner == steps[room].unit:
        kept = kept[:-1]
    return kept


def _share_for_budget(
    limits: Budget | UnitsBudget,
    groups: Sequence[Group],
    stops: Mapping[str, Sequence[int]],
) -> float:
    """The smallest uniform share of units whose removal meets the budget, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if limits.over(_lost(middle, groups, stops)) <= 0 else (middle, high)
    return high
