"""How many units each group loses, so that a budget is met at the least cost: least cost for what is saved goes first.

In: for each group what taking its first n units costs, and a budget that tells what is spent when groups lose so many.
Out: how many units each group loses. The cheapest way down a curve is its lower convex hull; savings depend on what
other groups have lost, so they are measured again whenever a group comes to the top. In the end groups exchange: what
one gets back another one pays for, as long as all together costs less.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from worker.engine.observe import Float

Spent = Callable[[Mapping[str, int]], float]
LOOKS = 1500  # at what is spent, for exchanges: each takes a millisecond or two in a network of fifty layers
STEPS = 16  # that a group goes back or on in one exchange
PARTNERS = 4  # groups on either side of an exchange: those that get most back, those that pay least
WORTH_IT = 1e-6  # of all that is lost
TINY = 1e-30


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
        self.looks = 0
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
        if self.now <= self.budget:
            self._exchange()
        return self.lost

    def _exchange(self) -> None:
        """One group gets back units, and where that is beyond the budget another one loses what brings it back."""
        self.looks = 0
        while self.looks < LOOKS:
            best, gained = self.lost, WORTH_IT * self._total(self.lost)
            for giver in self._givers():
                back = {**self.lost, giver: self._before(giver, self.lost)}
                taken = self._look(back)
                for payer in self._payers(giver, back, taken) if taken > self.budget else [""]:
                    for lost in self._swaps(giver, payer):
                        if (found := self._total(self.lost) - self._total(lost)) > gained:
                            best, gained = lost, found
            if best is self.lost:
                return
            self.lost, self.now = best, self.spent(best)

    def _swaps(self, giver: str, payer: str) -> Iterator[dict[str, int]]:
        """The payer loses more and more, as long as that may be worth it, and the giver gets what there is room for."""
        lost = dict(self.lost)
        paid = [stop for stop in self.stops[payer] if stop > lost[payer]] if payer else [0]
        for stop in paid[:STEPS]:
            if payer:
                lost[payer] = stop
            if self._total({**lost, giver: 0}) >= self._total(self.lost):
                return
            for _ in range(STEPS):
                more = {**lost, giver: self._before(giver, lost)} if lost[giver] else lost
                if more is lost or self._look(more) > self.budget:
                    break
                lost = more
            yield dict(lost)

    def _look(self, lost: Mapping[str, int]) -> float:
        self.looks += 1
        return self.spent(lost)

    def _total(self, lost: Mapping[str, int]) -> float:
        return sum(float(self.running[name][count]) for name, count in lost.items())

    def _before(self, name: str, lost: Mapping[str, int]) -> int:
        return max(stop for stop in self.stops[name] if stop < lost[name])

    def _givers(self) -> list[str]:
        """The groups that get back most for what it takes."""
        found = []
        for name, count in self.lost.items():
            if count:
                stop = self._before(name, self.lost)
                taken = self._look({**self.lost, name: stop}) - self.now
                found.append((-float(self.running[name][count] - self.running[name][stop]) / max(taken, TINY), name))
        return [name for _, name in sorted(found)[:PARTNERS]]

    def _payers(self, giver: str, back: Mapping[str, int], taken: float) -> list[str]:
        """The others that lose another unit at the least cost for what it saves."""
        found = []
        for name, count in back.items():
            after = [stop for stop in self.stops[name] if stop > count]
            if after and name != giver:
                saved = taken - self._look({**back, name: after[0]})
                rise = float(self.running[name][after[0]] - self.running[name][count])
                found.append((rise / max(saved, TINY), name))
        return [name for _, name in sorted(found)[:PARTNERS]]

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
