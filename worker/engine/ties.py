"""What operators say about axes: the recorder that their rules write into.

In: the shapes and small integer values seen in one real execution. Out: ties between points (a point is one index on
one axis of one tensor), pins with reasons, and the roles of weights. An axis that an operator does not speak for is
pinned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from worker.engine.graph import Array, Graph, Op
from worker.engine.quantised import ZEROS, stored

Points = npt.NDArray[np.int64]
Axis = tuple[str, int]  # a tensor and one of its dimensions


@dataclass(frozen=True, eq=False)
class Seen:
    """One real execution: the shape of every tensor, and the values of small integer ones (shape arithmetic)."""

    shapes: Mapping[str, tuple[int, ...]]
    small: Mapping[str, Array]
    dtypes: Mapping[str, np.dtype[np.generic]]


@dataclass(frozen=True)
class Produce:
    """An operator makes the units of `weight`'s axis: that slice of the weight is the unit's incoming weights.
    `carried`: it only passes them on, with a weight for each (depthwise). `parts`: the indices of one unit (gates)."""

    op: Op
    weight: str
    axis: int
    carried: bool = False
    parts: int = 1


@dataclass(frozen=True)
class Consume:
    """An operator contracts an axis of what it reads at `slot`: a unit that reads as zero there is without effect.

    `weight` is the constant that it is contracted against; "" where that is computed or quantised: a mask is exact all
    the same, but nothing can be handed over to the units that stay. `state` is where the units can be seen that a
    recurrent operator reads of itself; its slot is the recurrent weight's, whose columns are the reading."""

    op: Op
    slot: int
    axis: int
    weight: str = ""
    weight_axis: int = 0
    state: Axis | None = None
    averages: bool = False  # it takes a mean: over the units that stay
    zero: int | None = None  # where integers are read: the input slot of what stands for zero among them

    def read(self) -> Axis:
        """The tensor and axis that hold what is read."""
        return self.state or (self.op.inputs[self.slot], self.axis)


@dataclass(frozen=True)
class Statistic:
    """An operator takes a mean or a variance over an axis of its first input: without a part of it both are others.

    That pins the axis, unless the caller asked for `lossy`: then they are those of the units that stay."""

    op: Op
    axis: int


@dataclass(frozen=True)
class Fork:
    """`whole` counts the indices of `parts` in order, the last fastest: heads times width, groups times channels.

    At most one part may lose indices, or the whole would become ragged; `forks` decides which."""

    op: Op
    whole: Axis
    parts: tuple[Axis, ...]


@dataclass(frozen=True)
class Pin:
    points: Points
    code: str
    message: str


@dataclass
class Ties:
    """Filled by the operators' rules, read once by `axes`."""

    graph: Graph
    seen: Seen
    lossy: bool = False
    starts: dict[Axis, int] = field(default_factory=dict)
    total: int = 0
    left: list[Points] = field(default_factory=list)
    right: list[Points] = field(default_factory=list)
    pins: list[Pin] = field(default_factory=list)
    produced: list[Produce] = field(default_factory=list)
    consumed: list[Consume] = field(default_factory=list)
    forks: list[Fork] = field(default_factory=list)
    statistics: list[Statistic] = field(default_factory=list)
    spoken: set[Axis] = field(default_factory=set)
    imagined: dict[Axis, int] = field(default_factory=dict)  # sizes of axes that no tensor has

    def __post_init__(self) -> None:
        for name, shape in self.seen.shapes.items():
            for axis, size in enumerate(shape):
                self.starts[name, axis] = self.total
                self.total += size

    def shape(self, name: str) -> tuple[int, ...]:
        return self.seen.shapes[name]

    def points(self, axis: Axis) -> Points:
        """The points of an axis, in order."""
        start = self.starts[axis]
        return np.arange(start, start + self.size(axis), dtype=np.int64)

    def size(self, axis: Axis) -> int:
        return self.imagined[axis] if axis in self.imagined else self.shape(axis[0])[axis[1]]

    def imagine(self, size: int) -> Axis:
        """An axis of its own, for a factor that is an axis neither before nor after a Reshape."""
        axis = f"#{self.total}", 0
        self.starts[axis] = self.total
        self.imagined[axis] = size
        self.total += size
        return axis

    def tie(self, one: Axis, other: Axis) -> None:
        """Index i of one axis goes when index i of the other goes."""
        self.tie_points(self.points(one), self.points(other))
        self.speak(one, other)

    def tie_points(self, one: Points, other: Points) -> None:
        assert one.shape == other.shape, f"ties of {one.shape} against {other.shape} points"
        self.left.append(one.ravel())
        self.right.append(other.ravel())

    def fork(self, op: Op, whole: Axis, parts: tuple[Axis, ...]) -> None:
        """Let one of the parts, chosen later, carry the whole."""
        self.forks.append(Fork(op, whole, parts))
        self.speak(whole, *parts)

    def speak(self, *axes: Axis) -> None:
        """Say that the current operator has spoken for these axes."""
        self.spoken.update(axes)

    def pin(self, axis: Axis, code: str, message: str) -> None:
        self.pins.append(Pin(self.points(axis), code, message))
        self.speak(axis)

    def statistic(self, op: Op, axis: int, code: str, what: str) -> None:
        """The operator takes statistics over an axis of its first input; `what` says which. The caller ties the axis
        to others that have it."""
        self.statistics.append(Statistic(op, axis))
        self.speak((op.inputs[0], axis))
        if not self.lossy:
            changes = "removing a part changes the rest (options.lossy allows that)"
            self.pin((op.inputs[0], axis), code, f"{op.label()} {what} over it: {changes}")

    def produce(self, op: Op, weight: str, axis: int, carried: bool = False, parts: int = 1) -> None:
        """Where the weight is stored in the file, as numbers or quantised."""
        if source := stored(self.graph, weight):
            self.produced.append(Produce(op, source, axis, carried, parts))

    def consume(
        self,
        op: Op,
        slot: int,
        axis: int,
        weight: str = "",
        weight_axis: int = 0,
        state: Axis | None = None,
        averages: bool = False,
    ) -> None:
        """Contract an input's axis. The caller has tied it to the same axis of what it is contracted against."""
        zero = ZEROS.get((op.key, slot))
        known = weight in self.graph.constants and zero is None
        read = (weight, weight_axis) if known else ("", 0)
        self.consumed.append(Consume(op, slot, axis, *read, state, averages, zero))
