"""What the gates of some groups can change: the operators between the readers of their units and the loss.

In: an executor that has run once, the groups, the tensor that the loss is computed on. Out: `Reach`: that part of the
graph, to be run again and again with other gates on what it was given (`Batch`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worker.engine.axes import Group
from worker.engine.execute import Executor, Held, Masks
from worker.engine.graph import Op
from worker.engine.losses import Loss
from worker.engine.ties import Consume, Seen

SIZES = frozenset({"Shape", "Size"})  # these say the same of gated values


@dataclass(frozen=True, eq=False)
class Batch:
    """What the part is given, for some samples, of which `count` are real. `widest` and `whole` say how many numbers
    are computed from it: in the largest value, and in all."""

    values: Mapping[str, Held]
    target: torch.Tensor
    count: int
    widest: int
    whole: int

    def nbytes(self) -> int:
        return sum(value.numel() * value.element_size() for value in self.values.values() if torch.is_tensor(value))


@dataclass(frozen=True, eq=False)
class Place:
    """Where the gates of a group stand at one reader. Indices of other units have a gate that is always open."""

    group: str
    unit_of: torch.Tensor  # (axis size,): a unit, or the number of units
    axis: int
    sizes: tuple[int, ...]  # of what is read of one sample

    def mask(self, gates: torch.Tensor) -> torch.Tensor:
        shape = [size if axis == self.axis else 1 for axis, size in enumerate(self.sizes)]
        return torch.cat([gates, gates.new_ones(1)])[self.unit_of].reshape(shape)

    def by_unit(self, slopes: torch.Tensor, units: int) -> torch.Tensor:
        """Slopes in a mask's numbers, for each of some ways (ways, *what is read), summed up for each sample's units:
        (ways, samples, units). Where samples do not stand first there is one."""
        ways, samples = slopes.shape[0], slopes.shape[1] if self.apart() else 1
        moved = slopes.movedim(1 + self.axis, -1).reshape(ways, samples, -1, len(self.unit_of)).sum(dim=2)
        found = moved.new_zeros(ways, samples, units + 1)  # the last for indices of other units
        return found.index_add_(2, self.unit_of, moved)[..., :units]

    def apart(self) -> bool:
        """Whether samples stand first in what is read."""
        return self.sizes[0] == 1 and self.axis > 0


class Reach:
    """`given` are the values that the part reads from before it, `made` those that it computes."""

    def __init__(self, executor: Executor, seen: Seen, groups: Sequence[Group], tensor: str) -> None:
        self.executor, self.tensor = executor, tensor
        readers = {consume.op.index for group in groups for consume in group.consumers}
        self.ops = _between(executor.graph.ops, readers, tensor)
        self.made = frozenset(name for op in self.ops for name in op.outputs if name)
        read = {name for op in self.ops for name in (*op.inputs, *op.captures) if name}
        self.given = frozenset((read | {tensor}) - self.made - executor.graph.static)
        within = {op.index for op in self.ops}
        self.dtype = torch.float64 if seen.dtypes[tensor] == np.float64 else torch.float32
        self.places = [
            ((consume.op.index, consume.slot), _place(group, consume, seen, executor.device))
            for group in groups
            for consume in group.consumers
            if consume.op.index in within
        ]

    def open_gates(self, group: Group) -> torch.Tensor:
        return torch.ones(group.units, dtype=self.dtype, device=self.executor.device)

    def said(self, batch: Batch, gates: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The tensor behind the loss. `gates`: (units,) for each group."""
        return self.computed(self.ops, batch.values, self.masks(gates))

    def masks(self, gates: Mapping[str, torch.Tensor]) -> Masks:
        found: dict[tuple[int, int], torch.Tensor] = {}
        for key, place in self.places:
            mask = place.mask(gates[place.group])
            found[key] = found[key] * mask if key in found else mask
        return found

    def own_masks(self, gates: Mapping[str, torch.Tensor], samples: int) -> Masks:
        """The same with numbers of its own for all that is read of every sample."""
        shapes = {key: (samples if place.apart() else place.sizes[0], *place.sizes[1:]) for key, place in self.places}
        return {key: mask.expand(shapes[key]) for key, mask in self.masks(gates).items()}

    def apart(self) -> bool:
        """Whether each sample can have gates of its own."""
        return all(place.apart() for _, place in self.places)

    def lost(self, loss: Loss, batch: Batch, gates: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss of each sample: (count,)."""
        return loss.each(self.said(batch, gates), batch.target)[: batch.count]

    def computed(
        self, ops: Sequence[Op], values: Mapping[str, Held], masks: Masks, wanted: str | None = None
    ) -> torch.Tensor:
        """One value of the part, by default the tensor behind the loss, by some of its operators."""
        return self.executor.part(ops, values, wanted or self.tensor, masks)


def _between(ops: Sequence[Op], readers: set[int], tensor: str) -> tuple[Op, ...]:
    """The operators that a reader reaches and that reach the tensor, in order."""
    touched: set[str] = set()
    below = []
    for op in ops:
        if op.index in readers or (op.key not in SIZES and touched.intersection((*op.inputs, *op.captures))):
            touched.update(filter(None, op.outputs))
            below.append(op)
    wanted, found = {tensor}, []
    for op in reversed(below):
        if wanted.intersection(op.outputs):
            wanted.update((*op.inputs, *op.captures))
            found.append(op)
    return tuple(reversed(found))


def _place(group: Group, consume: Consume, seen: Seen, device: str) -> Place:
    name, axis = consume.op.inputs[consume.slot], consume.axis
    sizes = seen.shapes[name]
    unit_of = np.full(sizes[axis], group.units, np.int64)
    index = group.sites[name, axis]
    unit_of[index] = np.arange(group.units)[:, None]
    return Place(group.name, torch.from_numpy(unit_of).to(device), axis, sizes)
