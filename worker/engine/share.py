"""How many units each group loses, so that a budget is met at the least cost: least cost for what is saved goes first.

In: for each group what taking its first n units costs, and a budget that tells what is spent when groups lose so many.
Out: how many units each group loses. The cheapest way down a curve is its lower convex hull; savings depend on what
other groups have lost, so they are measured again whenever a group comes to the top.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from worker.engine.observe import Float

Spent = Callable[[Mapping[str, int]], float]


def hull(costs: Sequence[float]) -> list[int]:
    """Where the lower convex hull of the running costs (the first of nothing at all) touches it, from the left."""
    running = np.concatenate([[0.0], np.cumsum(np.asarray(costs, np.float64))])
    corners: list[int] = []
    for n in range(len(running)):
        while len(corners) > 1 and _turns(running, corners[-2], corners[-1], n):
            corners.pop()
        corners.append(n)
    return corners


def _turns(running: Float, first: int, middle: int, last: int) -> bool:
    """Whether the middle lies on or above the line from the first to the last."""
    rise = (running[last] - running[first]) * (middle - first)
    return bool((running[middle] - running[first]) * (last - first) >= rise)


def share_out(costs: Mapping[str, Sequence[float]], spent: Spent, budget: float) -> dict[str, int]:
    """How many units each group loses until no more than the budget is spent; as many as there are if it never is."""
    lost = dict.fromkeys(costs, 0)
    hulls = {name: hull(some) for name, some in costs.items()}
    running = {name: np.concatenate([[0.0], np.cumsum(some)]) for name, some in costs.items()}
    now = spent(lost)

    def next_corner(name: str) -> int | None:
        return next((corner for corner in hulls[name] if corner > lost[name]), None)

    def price(name: str) -> float:
        corner = next_corner(name)
        assert corner is not None
        saved = now - spent({**lost, name: corner})
        rise = float(running[name][corner] - running[name][lost[name]])
        return rise / saved if saved > 0 else np.inf

    heap = [(price(name), name) for name in costs if next_corner(name) is not None]
    heapq.heapify(heap)
    while now > budget and heap:
        _, name = heapq.heappop(heap)
        own = price(name)
        if heap and own > heap[0][0]:
            heapq.heappush(heap, (own, name))
            continue
        corner = next_corner(name)
        assert corner is not None
        while lost[name] < corner and now > budget:  # a long edge may meet the budget half way
            lost[name] += 1
            now = spent(lost)
        if next_corner(name) is not None:
            heapq.heappush(heap, (price(name), name))
    return lost
