"""Where a deployment keeps activations: one block of memory, the arena, in which values that are alive at the same
time never overlap.

In: a graph, the shapes and types seen in one execution, and the shapes after a cut. Out: for each buffer its bytes, the
steps it lives for and its offset, and the bytes of the whole. Inputs and outputs of the model lie in the arena too, as
they do in the interpreters and generated programs of microcontrollers. Left out, because it depends on the kernels of
a deployment: scratch of single operators, the stack, and what the values inside a subgraph need.

A view (Reshape, Flatten) takes no memory. An operator that needs of an input only the element it is about to write
computes in place, where nobody reads that input later.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from worker.engine.graph import Graph, Op
from worker.engine.ops import RULES
from worker.engine.ops.rule import ShapeOf
from worker.engine.ties import Seen

ALIGNMENT = 8  # bytes: what the widest element needs


@dataclass(frozen=True)
class Buffer:
    """Values that share one place, and the steps (operators in file order) from its first write to its last read."""

    values: tuple[str, ...]
    first: int
    last: int


@dataclass(frozen=True)
class Block:
    """What a plan needs to know of a buffer."""

    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """One offset for each block, in the order they were given."""

    offsets: tuple[int, ...]
    bytes: int


def peak_ram_bytes(graph: Graph, seen: Seen, after: ShapeOf) -> int:
    """The bytes of the arena. One sample, or the model's fixed batch."""
    return plan(blocks(buffers(graph, seen), seen, after)).bytes


def blocks(found: Sequence[Buffer], seen: Seen, after: ShapeOf) -> list[Block]:
    """What the buffers take once the model is cut."""

    def size(name: str) -> int:
        return prod(after(name)) * np.dtype(seen.dtypes[name]).itemsize

    return [Block(max(map(size, buffer.values)), buffer.first, buffer.last) for buffer in found]


@dataclass
class _Places:
    """Fills up while the operators are followed in order."""

    seen: Seen
    last: dict[str, int]  # the last step that reads a value
    where: dict[str, int] = field(default_factory=dict)
    found: list[Buffer] = field(default_factory=list)

    def settle(self, name: str, step: int, shared: int | None) -> None:
        last = self.last.get(name, step)
        if shared is None:
            self.where[name] = len(self.found)
            self.found.append(Buffer((name,), step, last))
        else:
            old = self.found[shared]
            self.where[name] = shared
            self.found[shared] = Buffer((*old.values, name), old.first, max(old.last, last))

    def shared(self, op: Op, step: int) -> int | None:
        """The place that the first output of an operator takes over from an input."""
        rule = RULES.get(op.key)
        if rule is None or op.outputs[0] not in self.seen.shapes:
            return None
        if rule.alias and op.inputs[0] in self.where:
            return self.where[op.inputs[0]]
        if rule.in_place:
            for name in op.inputs:
                if name in self.where and self._may_overwrite(op, name, step):
                    return self.where[name]
        return None

    def _may_overwrite(self, op: Op, name: str, step: int) -> bool:
        """Nobody reads the place later, and this operator reads it nowhere but where it writes."""
        place, seen = self.where[name], self.seen
        same = [one for one in op.inputs if self.where.get(one) == place]
        return (
            self.found[place].last == step
            and seen.dtypes[name] == seen.dtypes[op.outputs[0]]
            and all(seen.shapes[one] == seen.shapes[op.outputs[0]] for one in same)
        )


def buffers(graph: Graph, seen: Seen) -> tuple[Buffer, ...]:
    """Which values share a place, and from when to when each place is taken."""
    active = [op for op in graph.ops if op.outputs[0] not in graph.static]
    places = _Places(seen, _last_reads(graph, active))
    for port in graph.inputs:
        if port.name in seen.shapes:
            places.settle(port.name, 0, None)
    for step, op in enumerate(active):
        shared = places.shared(op, step)
        for slot, name in enumerate(op.outputs):
            if name and name in seen.shapes:
                places.settle(name, step, shared if slot == 0 else None)
    return tuple(places.found)


def _last_reads(graph: Graph, active: Sequence[Op]) -> dict[str, int]:
    """Outputs of the model are read after the last operator."""
    last = {name: step for step, op in enumerate(active) for name in (*op.inputs, *op.captures)}
    return last | {port.name: len(active) for port in graph.outputs}


def plan(wanted: Sequence[Block]) -> Plan:
    """Offsets by best fit, for the order of placing that needs the least: by size, by time, by length of life."""
    least = most_alive(wanted)
    orders = (
        lambda at: (-wanted[at].bytes, wanted[at].first),
        lambda at: (wanted[at].first, -wanted[at].bytes),
        lambda at: (wanted[at].first - wanted[at].last, -wanted[at].bytes),
    )
    best: Plan | None = None
    for order in orders:
        found = _placed(wanted, sorted(range(len(wanted)), key=order))
        best = found if best is None or found.bytes < best.bytes else best
        if best.bytes == least:
            break
    assert best is not None, "there are orders"
    return best


def most_alive(wanted: Sequence[Block]) -> int:
    """Bytes alive at the fullest step: no plan needs less."""
    steps = np.zeros(max((block.last for block in wanted), default=0) + 2, np.int64)
    for block in wanted:
        steps[block.first] += _aligned(block.bytes)
        steps[block.last + 1] -= _aligned(block.bytes)
    return int(np.cumsum(steps).max())


def _placed(wanted: Sequence[Block], order: Sequence[int]) -> Plan:
    """Each block in turn into the tightest gap that its contemporaries leave, else on top of them."""
    offsets = [0] * len(wanted)
    placed: list[int] = []
    for at in order:
        block = wanted[at]
        taken = sorted(
            (offsets[other], offsets[other] + _aligned(wanted[other].bytes))
            for other in placed
            if wanted[other].first <= block.last and block.first <= wanted[other].last
        )
        offsets[at] = _tightest(taken, _aligned(block.bytes))
        placed.append(at)
    end = max((offset + _aligned(block.bytes) for offset, block in zip(offsets, wanted, strict=True)), default=0)
    return Plan(tuple(offsets), end)


def _tightest(taken: Sequence[tuple[int, int]], size: int) -> int:
    """Where `size` bytes fit best between stretches sorted by their start."""
    best, room, end = None, 0, 0
    for start, stop in taken:
        gap = start - end
        if gap >= size and (best is None or gap < room):
            best, room = end, gap
        end = max(end, stop)
    return end if best is None else best


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
