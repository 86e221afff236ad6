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


def hull(costs: Sequence[float], stops: Sequence[int] | None = None) -> list[int]:
    """Where the lower convex hull of the running costs (the first of nothing at all) touches it, from the left. With
    `stops`: of those alone."""
    running = np.concatenate([[0.0], np.cumsum(np.asarray(costs, np.float64))])
    corners: list[int] = []
    for n in range(len(running)) if stops is None else stops:
        while len(corners) > 1 and _turns(running, corners[-2], corners[-1], n):
            corners.pop()
        corners.append(n)
    return corners


def _turns(running: Float, first: int, middle: int, last: int) -> bool:
    """Whether the middle lies on or above the line from the first to the last."""
    rise = (running[last] - running[first]) * (middle - first)
    return bool((running[middle] - running[first]) * (last - first) >= rise)


def share_out(
    costs: Mapping[str, Sequence[float]],
    spent: Spent,
    budget: float,
    stops: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, int]:
    """How many units each group loses until no more than the budget is spent; as many as there are if it never is.
    `stops` are the numbers that a group may lose (0 first), where not any will do."""
    return _Sharing(costs, spent, budget, stops or {}).run()


class _Sharing:
    def __init__(
        self,
        costs: Mapping[str, Sequence[float]],
        spent: Spent,
        budget: float,
        stops: Mapping[str, Sequence[int]],
    ) -> None:
        self.spent, self.budget = spent, budget
        self.stops = {name: stops.get(name, range(len(some) + 1)) for name, some in costs.items()}
        self.hulls = {name: hull(some, self.stops[name]) for name, some in costs.items()}
        self.running = {name: np.concatenate([[0.0], np.cumsum(some)]) for name, some in costs.items()}
        self.lost = dict.fromkeys(costs, 0)
        self.now = spent(self.lost)

    def run(self) -> dict[str, int]:
        heap = self._prices()
        while self.now > self.budget and heap:
            _, name = heapq.heappop(heap)
            own = self._price(name)
            if heap and own > heap[0][0]:
                heapq.heappush(heap, (own, name))
                continue
            if np.isinf(own):  # what else there is may be worth more by now
                heap = self._prices()
                _, name = heapq.heappop(heap)
            self._take(name)
            if self._next(name) is not None:
                heapq.heappush(heap, (self._price(name), name))
        return self.lost

    def _prices(self) -> list[tuple[float, str]]:
        heap = [(self._price(name), name) for name in self.lost if self._next(name) is not None]
        heapq.heapify(heap)
        return heap

    def _next(self, name: str) -> int | None:
        return next((corner for corner in self.hulls[name] if corner > self.lost[name]), None)

    def _price(self, name: str) -> float:
        corner = self._next(name)
        assert corner is not None
        saved = self.now - self.spent({**self.lost, name: corner})
        rise = float(self.running[name][corner] - self.running[name][self.lost[name]])
        return rise / saved if saved > 0 else np.inf

    def _take(self, name: str) -> None:
        """Along the edge to the next corner, as far as that saves anything; it may meet the budget half way."""
        corner = self._next(name)
        assert corner is not None
        end = self.spent({**self.lost, name: corner})
        edge = [stop for stop in self.stops[name] if self.lost[name] < stop <= corner]
        for place, stop in enumerate(edge):
            if self.now <= self.budget or (place and end >= self.now):
                return
            self.lost[name] = stop
            self.now = self.spent(self.lost)
