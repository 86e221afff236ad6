"""Which units go: the criterion's own threshold, a share of every group, or a budget of MACs or parameters.

A budget is shared out by what units cost where their scores compare across groups, else evenly.

In: the request, the groups in scope, their evidence. Out: for each group the steps taken. Refused: a budget that even
the smallest model of the scope exceeds (`amount_unreachable`, naming the least that can be reached).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import floor

from schemas.errors import EspalierError
from schemas.request import PruneRequest, Scope
from worker.engine.axes import Group, Layer
from worker.engine.cost import Cost
from worker.engine.criteria.evidence import Criterion, Evidence, Step
from worker.engine.share import Spent, share_out

CostOf = Callable[[Mapping[str, int]], Cost]  # groups' names and how many units they lose
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
    cost_of: CostOf,
) -> dict[str, tuple[Step, ...]]:
    """The steps each group takes."""
    keep = request.scope.minimum_kept
    if request.amount.kind == "threshold":
        return {group.name: _capped(criterion.by_threshold(evidence[group.name]), group, keep) for group in groups}
    orders = {group.name: _capped(criterion.in_order(evidence[group.name]), group, keep) for group in groups}
    share, of_units = request.amount.share, request.amount.kind == "remove_units"
    if request.share_out == "error":
        budget = _units_budget(share, groups) if of_units else _budget(request, orders, cost_of)
        costs = {name: [step.score or 0.0 for step in steps] for name, steps in orders.items()}
        return {name: orders[name][:count] for name, count in share_out(costs, budget.spent, budget.limit).items()}
    if not of_units:
        share = _share_for_budget(_budget(request, orders, cost_of), groups, orders)
    return {group.name: orders[group.name][: units_lost(share, group.units)] for group in groups}


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


@dataclass(frozen=True)
class Budget:
    """No more than `limit` may be spent once groups have lost so many units."""

    limit: float
    spent: Spent


def _units_budget(share: float, groups: Sequence[Group]) -> Budget:
    """So many units of all groups together. What cannot be met takes all that may go, as it does group by group."""
    whole = sum(group.units for group in groups)
    return Budget(whole - units_lost(share, whole), lambda lost: whole - sum(lost.values()))


def _budget(request: PruneRequest, orders: Mapping[str, tuple[Step, ...]], cost_of: CostOf) -> Budget:
    """The budget that a request sets. Refused: one that cannot be met."""
    what = "macs" if request.amount.kind == "keep_macs" else "parameters"

    def spent(lost: Mapping[str, int]) -> float:
        return float(getattr(cost_of(lost), what))

    whole, least = spent({}), spent({name: len(steps) for name, steps in orders.items()})
    limit = request.amount.share * whole
    if least > limit:
        raise EspalierError(
            "amount_unreachable",
            f"{request.amount.kind} {request.amount.share:g} asks for {limit:,.0f} {what}; removing all that may go "
            f"leaves {least:,.0f} of {whole:,.0f} ({least / whole:.3f})",
            where="/amount",
        )
    return Budget(limit, spent)


def _share_for_budget(budget: Budget, groups: Sequence[Group], orders: Mapping[str, tuple[Step, ...]]) -> float:
    """The smallest uniform share of units whose removal meets the budget, by bisection."""

    def spent(share: float) -> float:
        lost = {group.name: min(units_lost(share, group.units), len(orders[group.name])) for group in groups}
        return budget.spent(lost)

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= budget.limit else (middle, high)
    return high
