"""What the teacher's readings see before anything goes: the evidence that elimination starts from.

In: an executor, the readings and one pass over batches of samples. Out: for each group a `Sight` of each operator that
reads it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from worker.engine.execute import Executor, Held
from worker.engine.graph import Graph
from worker.engine.ops.recurrent import Product
from worker.engine.refit.consumers import Consumer
from worker.engine.refit.eliminate import ORDER_RIDGE, Reader, reader
from worker.engine.refit.lanes import lane_by_lane
from worker.engine.refit.normal import Normal, Sums
from worker.engine.refit.readings import Reading
from worker.engine.refit.recurrent import Recurrence, features, steps, tensors_of
from worker.engine.refit.rows import rows_for, rows_wanted, some_of
from worker.engine.refit.weights import weighed
from worker.engine.shelf import IN_MEMORY, Shelf
from worker.engine.ties import Points


@dataclass(frozen=True, eq=False)
class Sight:
    """One reading of one group. `rows`: features, or lanes, of each unit. `energy`: mean square of what is judged."""

    graph: Graph
    reading: Reading
    normal: Normal
    energy: float
    rows: Points
    shelf: Shelf

    def reader(self) -> Reader:
        """A fresh start for elimination. The teacher's own output is the target: W is already the best there is."""
        w, scale = weighed(self.graph, self.reading, self.energy, str(self.normal.h.device))
        rows = torch.from_numpy(self.rows).to(w.device)
        found = reader(self.normal, w, rows, ORDER_RIDGE, scale, taught=True)
        self.shelf.ease()
        return found


@dataclass(frozen=True, eq=False)
class RecurrentSight:
    """A recurrent layer that reads a group among its inputs or its own states. `rows`: features of each unit; `w`:
    (directions, features and the constant, gates)."""

    reading: Recurrence
    w: torch.Tensor
    normal: Normal
    rows: Points

    def reader(self) -> Reader:
        """A fresh start for elimination: costs are shares of what the gates get before they bend."""
        energy = (self.w * (self.normal.h @ self.w)).sum().clamp_min(torch.finfo(self.w.dtype).tiny)
        scale = energy.rsqrt().expand(self.w.shape[0], self.w.shape[2])
        rows = torch.from_numpy(self.rows).to(self.w.device)
        return reader(self.normal, self.w, rows, ORDER_RIDGE, scale, taught=True)


class _Watch:
    """Adds up what one reading sees, and how large what it is judged by is."""

    def __init__(self, reading: Reading, rows: int, generator: torch.Generator, device: str, shelf: Shelf) -> None:
        linear = reading.linear
        self.shelf = shelf
        self.reading = reading
        self.rows = rows
        self.generator = generator
        self.sums = Sums(linear.blocks, reading.columns, 0, bool(reading.tail.bias), device, shelf)
        self.squares, self.places = 0.0, 0

    def look(self, x: torch.Tensor) -> None:
        linear = self.reading.linear
        features = linear.gather(x, some_of(linear.places(tuple(x.shape)), self.rows, self.generator))
        lanes = self.reading.lanes
        self.sums.add(features if lanes is None else lane_by_lane(lanes, features), None)

    def judge(self, value: torch.Tensor) -> None:
        self.squares += float(value.square().sum(dtype=torch.float64))
        self.places += value.numel() // self.reading.linear.count

    def sights(self, graph: Graph) -> Iterator[tuple[str, Sight]]:
        """One for each group."""
        means, energy = self.sums.means(), self.squares / max(self.places, 1)
        for name, rows in self.reading.units.items():
            yield name, Sight(graph, self.reading, means, energy, rows, self.shelf)


class _RecurrentWatch:
    """Adds up what the gates of one layer see. Its states are computed anew from what it reads."""

    def __init__(
        self,
        graph: Graph,
        reading: Recurrence,
        rows: int,
        generator: torch.Generator,
        device: str,
        shelf: Shelf,
    ) -> None:
        self.reading = reading
        self.rows = rows
        self.generator = generator
        self.weights = reading.weights(graph.constants).to(device)
        self.values: dict[str, Held] = {}
        self.sums = Sums(len(self.weights.w), reading.features, 0, reading.biased, device, shelf)

    def ends(self, name: str) -> bool:
        return name == next(filter(None, self.reading.op.outputs))

    def look(self) -> None:
        tensors = tensors_of(self.reading, self.values)
        before, _ = steps(self.reading, tensors, self.weights)
        product, found = Product(0, 1), []
        for direction in range(len(before)):
            seen = features(self.reading, tensors, self.weights, before, product, direction)
            places = len(seen)
            spots = torch.randperm(places, generator=self.generator)[: max(self.rows, 1)].to(seen.device)
            found.append(seen[spots])
        self.sums.add(torch.stack(found), None)

    def sight(self, rows: Points) -> RecurrentSight:
        w = torch.cat([self.weights.w, self.weights.r], dim=2).transpose(1, 2).to(torch.float64)
        if self.reading.biased:
            w = torch.cat([w, torch.zeros_like(w[:, :1])], dim=1)
        return RecurrentSight(self.reading, w, self.sums.means(), rows)


class Watching:
    """To be shown every value of a pass over the data; `batches` says how many shows of each there will be."""

    def __init__(
        self, executor: Executor, readings: Iterable[Consumer], batches: int, seed: int, shelf: Shelf = IN_MEMORY
    ) -> None:
        self.graph = executor.graph
        generator = torch.Generator().manual_seed(seed)
        self._sources: dict[str, list[_Watch]] = {}
        self._judged: dict[str, list[_Watch]] = {}
        self._all: list[_Watch] = []
        self._recurrent: list[_RecurrentWatch] = []
        for reading in readings:
            if reading.units and isinstance(reading, Recurrence):
                rows = rows_for(reading.features) // max(batches, 1)
                own = _RecurrentWatch(executor.graph, reading, rows, generator, executor.device, shelf)
                self._recurrent.append(own)
            elif reading.units and isinstance(reading, Reading) and not reading.wide:
                rows = rows_wanted(reading) // max(batches, 1)
                one = _Watch(reading, rows, generator, executor.device, shelf)
                self._all.append(one)
                self._sources.setdefault(reading.source, []).append(one)
                self._judged.setdefault(reading.tail.judged, []).append(one)

    @torch.inference_mode()
    def visit(self, name: str, value: Held) -> None:
        for one in self._sources.get(name, ()):
            assert isinstance(value, torch.Tensor), f"{name} holds no numbers"
            one.look(value)
        for one in self._judged.get(name, ()):
            assert isinstance(value, torch.Tensor), f"{name} holds no numbers"
            one.judge(value)

        for recurrent in self._recurrent:
            if name in recurrent.reading.op.inputs:
                recurrent.values[name] = value
            if recurrent.ends(name):
                recurrent.look()

    def sees(self, group: str) -> bool:
        watched: list[Consumer] = [*(one.reading for one in self._all), *(one.reading for one in self._recurrent)]
        return any(group in reading.units for reading in watched)

    def sights(self) -> dict[str, tuple[Sight | RecurrentSight, ...]]:
        found: dict[str, list[Sight | RecurrentSight]] = {}
        for recurrent in self._recurrent:
            for name, rows in recurrent.reading.units.items():
                found.setdefault(name, []).append(recurrent.sight(rows))
        for one in self._all:
            for name, sight in one.sights(self.graph):
                found.setdefault(name, []).append(sight)
        return {name: tuple(some) for name, some in found.items()}
