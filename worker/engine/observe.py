"""One pass over the data: shapes first, then for every group the Gram of its units.

In: an executor, groups and batches of samples. Out: `Seen` and `SiteGram`s. Memory is the square of a group's units,
whatever the number of samples: `G += A^T A`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from worker.engine import evaluate
from worker.engine.axes import Group
from worker.engine.data import Samples
from worker.engine.execute import Executor, Held, Visit
from worker.engine.gram import Gram
from worker.engine.graph import Array, Graph
from worker.engine.ops import RULES
from worker.engine.shelf import IN_MEMORY, Shelf
from worker.engine.ties import Points, Seen

Float = npt.NDArray[np.float64]
SMALL = 4096  # elements of an integer tensor that may be shape arithmetic


@dataclass(frozen=True, eq=False)
class SiteGram:
    """What the units of a group do where one consumer reads them. Rows are samples times positions."""

    tensor: str
    gram: Float  # (units, units): sum of products
    sums: Float  # (units,)
    rows: int
    middle: float | None  # the middle of the activation's range, where that is finite
    zeros: Float | None = None  # (units,): rows in which a unit is zero, where somebody asked


def see(executor: Executor, feeds: Mapping[str, Array]) -> Seen:
    """Run once and write down every shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    small: dict[str, Array] = {}
    dtypes: dict[str, np.dtype[np.generic]] = {}

    def visit(name: str, value: Held) -> None:
        shapes[name] = tuple(value.shape)
        array = value.cpu().numpy() if isinstance(value, torch.Tensor) and value.numel() <= SMALL else None
        dtypes[name] = (
            torch.empty(0, dtype=value.dtype).numpy().dtype if isinstance(value, torch.Tensor) else value.dtype
        )
        if array is not None and array.dtype.kind == "i":
            small[name] = array

    executor.run(feeds, visit)
    return Seen(shapes, small, dtypes)


class _Accumulator:
    def __init__(self, index: Points, size: int, axis: int, device: str, count_zeros: bool, shelf: Shelf) -> None:
        units, self.width = index.shape
        self.axis = axis
        whole = self.width == 1 and np.array_equal(index.ravel(), np.arange(size))
        self.index = None if whole else torch.from_numpy(index.ravel()).to(device)
        self.units = units
        self.gram = Gram(units, device, shelf)
        self.zeros = torch.zeros(units, dtype=torch.float64, device=device) if count_zeros else None

    def add(self, value: torch.Tensor) -> None:
        """Rows are everything but the units; a unit of several indices (behind a Flatten) owns a row for each."""
        acts = value.movedim(self.axis, -1)
        if self.index is not None:
            acts = acts.index_select(-1, self.index)
        acts = acts.reshape(-1, self.units, self.width).movedim(1, -1).reshape(-1, self.units)  # (rows, units)
        if self.zeros is not None:
            self.zeros += (acts == 0).sum(dim=0)
        self.gram.add(acts)

    def found(self, tensor: str, middle: float | None) -> SiteGram:
        zeros = None if self.zeros is None else self.zeros.cpu().numpy()
        total, sums = self.gram.total().cpu().numpy(), self.gram.sums.cpu().numpy()
        return SiteGram(tensor, total, sums, self.gram.rows, middle, zeros)


def grams(
    executor: Executor,
    groups: Iterable[Group],
    batches: Iterable[Mapping[str, Array]],
    count_zeros: bool = False,
    beside: Visit | None = None,
    shelf: Shelf = IN_MEMORY,
) -> dict[str, tuple[SiteGram, ...]]:
    """The Grams of each group, one for each tensor its consumers read, in one pass over the batches. `beside` is shown
    every value of the same pass; large Grams lie on the shelf."""
    graph = executor.graph
    wanted: dict[str, list[tuple[Group, int, _Accumulator | None]]] = {}
    groups = tuple(groups)
    for group in groups:
        for tensor, axis in group.read_sites():
            wanted.setdefault(tensor, []).append((group, axis, None))
    zeros = {name: zero for group in groups for name, zero in _zeros(graph, group)}

    def visit(name: str, value: Held) -> None:
        if beside is not None:
            beside(name, value)
        for place, (group, axis, known) in enumerate(wanted.get(name, ())):
            assert isinstance(value, torch.Tensor)
            if name in zeros:
                value = value.to(torch.float64) - zeros[name]
            kept = known
            if kept is None:
                size = value.shape[axis]
                kept = _Accumulator(group.sites[name, axis], size, axis, executor.device, count_zeros, shelf)
                wanted[name][place] = (group, axis, kept)
            kept.add(value)

    for feeds in batches:
        executor.run(feeds, visit)
    found: dict[str, list[SiteGram]] = {}
    for tensor, entries in wanted.items():
        for group, _, kept in entries:
            if kept is not None:
                found.setdefault(group.name, []).append(kept.found(tensor, middle(graph, tensor)))
    return {name: tuple(sites) for name, sites in found.items()}


def _zeros(graph: Graph, group: Group) -> Iterator[tuple[str, float]]:
    """What stands for zero in tensors of integers."""
    for one in group.consumers:
        if one.zero is not None and (points := graph.constants.get(one.op.input(one.zero))) is not None:
            yield one.read()[0], float(points.reshape(-1)[0])


def batch_rows(graph: Graph, samples: Samples) -> int:
    """How many samples are walked at once."""
    return graph.fixed_batch() or evaluate.chunk_rows(samples)


def batches(graph: Graph, samples: Samples, within: Callable[[float, str], None]) -> Iterator[Mapping[str, Array]]:
    """Samples in chunks. Of a fixed batch only whole ones, unless the first is not."""
    size = graph.fixed_batch()
    done = 0
    for part in samples.batches(batch_rows(graph, samples)):
        if size is None or part.count == size:
            yield part.inputs
        elif done == 0:
            yield evaluate.pad(part, size).inputs
        done += part.count
        within(done / samples.count, f"{done:,} of {samples.count:,} samples")


def middle(graph: Graph, tensor: str) -> float | None:
    """The middle of a tensor's range: that of the activation behind it, through pools and reshapes."""
    while (op := graph.producer.get(tensor)) is not None:
        rule = RULES.get(op.key)
        if rule is None:
            return None
        bounds = rule.range(op, graph.constants)
        if bounds is not None:
            return (bounds[0] + bounds[1]) / 2
        if not rule.passes:
            return None
        tensor = op.inputs[0]
    return None
