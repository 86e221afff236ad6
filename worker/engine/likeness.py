"""How like its teacher a student is: by the outputs, and by what its layers read on the way there.

In: both graphs, which indices of which axes the student has lost. Out: `Likeness`, which runs both on a batch and gives
differences in shares of what varies. A tensor that the two do not have alike is left out.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch

from worker.engine.execute import Executor, Held
from worker.engine.graph import Array, Graph
from worker.engine.ops.convolution import is_channels_last
from worker.engine.ties import Axis, Points

READERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
CHOICES = ("Softmax", "LogSoftmax", "Hardmax", "ArgMax")
Seen: TypeAlias = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Place:
    """A tensor of both. `kept`: by axis, the teacher's indices that the student has; `spread`: how much it varies."""

    name: str
    kept: Mapping[int, torch.Tensor]
    spread: float = 1.0

    def of_teacher(self, value: torch.Tensor) -> torch.Tensor:
        """In the order in which convolutions compute: what has another is slow to compare with it."""
        for axis, index in self.kept.items():
            if axis == 1 and is_channels_last(value):
                value = value.movedim(1, -1).index_select(-1, index).movedim(-1, 1)
            else:
                value = value.index_select(axis, index)
        return value


class Likeness:
    """`outputs` decide which student is best; `features` only help to get there."""

    def __init__(self, teacher: Executor, student: Executor, gone: Mapping[Axis, Points], feeds: Mapping[str, Array]):
        self.teacher, self.student = teacher, student
        outputs = targets(teacher.graph)
        names = (*outputs, *(name for name in read(student.graph) if name not in outputs))
        taught = _run(teacher, feeds, names)
        given = _run(student, feeds, names)
        places = [_place(name, taught[name], given[name], gone) for name in names if name in taught and name in given]
        found = {place.name: place for place in places if place is not None}
        self.outputs = tuple(found[name] for name in outputs if name in found)
        self.features = tuple(place for name, place in found.items() if name not in outputs)

    def taught(self, feeds: Mapping[str, Array], features: tuple[Place, ...] = ()) -> Seen:
        """What the teacher computes there, of the units that the student has."""
        places = (*self.outputs, *features)
        found = _run(self.teacher, feeds, tuple(place.name for place in places))
        return {place.name: place.of_teacher(found[place.name]) for place in places}

    def given(self, feeds: Mapping[str, Array], features: tuple[Place, ...] = ()) -> Seen:
        """The same of the student, with gradients."""
        found: dict[str, torch.Tensor] = {}
        self.student.differentiable(feeds, _catch(tuple(place.name for place in (*self.outputs, *features)), found))
        return found

    def beside(self, floats: torch.dtype) -> "Likeness":
        """Both models once more, in that precision, compared at the same places."""
        another = copy(self)
        another.teacher, another.student = (Executor(one.graph, floats=floats) for one in (self.teacher, self.student))
        return another

    def measured(self, answers: list[Seen]) -> None:
        """From now on outputs are judged by how much they vary over all of these."""
        joined = {place.name: torch.cat([one[place.name].flatten() for one in answers]) for place in self.outputs}
        self.outputs = tuple(replace(place, spread=float(joined[place.name].var()) or 1.0) for place in self.outputs)


def difference(places: tuple[Place, ...], given: Seen, taught: Seen) -> torch.Tensor:
    """Squared, in shares of what varies; nothing where there are no places."""
    parts = [mean_square(given[one.name], taught[one.name]) / one.spread for one in places]
    return torch.stack(parts).mean() if parts else torch.zeros(())


def mean_square(given: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Of the difference, in single precision at least. torch's own takes some times as long in bfloat16."""
    found: torch.Tensor = _MeanSquare.apply(given, taught)  # type: ignore[no-untyped-call]
    return found


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
        apart = given - taught
        ctx.save_for_backward(apart)
        length: torch.Tensor = torch.linalg.vector_norm(apart, dtype=torch.promote_types(apart.dtype, torch.float32))
        return (length.square() / apart.numel()).float()

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        (apart,) = ctx.saved_tensors
        slope: torch.Tensor = apart * (slopes[0] * (2 / apart.numel())).to(apart.dtype)
        return slope, None


def targets(graph: Graph) -> tuple[str, ...]:
    """The outputs, or what a Softmax or its like at the end reads."""
    names = []
    for port in graph.outputs:
        maker = graph.producer.get(port.name)
        names.append(maker.inputs[0] if maker is not None and maker.key in CHOICES else port.name)
    return tuple(dict.fromkeys(names))


def read(graph: Graph) -> tuple[str, ...]:
    """What the layers with weights read, but for the inputs."""
    inputs = {port.name for port in graph.inputs}
    names = (op.inputs[0] for op in graph.ops if op.key in READERS)
    return tuple(dict.fromkeys(name for name in names if name not in inputs and name not in graph.static))


def _place(name: str, taught: torch.Tensor, given: torch.Tensor, gone: Mapping[Axis, Points]) -> Place | None:
    kept = {
        axis: torch.from_numpy(np.setdiff1d(np.arange(size), gone[name, axis])).to(taught.device)
        for axis, size in enumerate(taught.shape)
        if (name, axis) in gone
    }
    place = Place(name, kept)
    same = place.of_teacher(taught)
    return (
        replace(place, spread=float(same.float().var()) or 1.0)
        if same.shape == given.shape and same.numel() > 1
        else None
    )


def _run(executor: Executor, feeds: Mapping[str, Array], names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    executor.run(feeds, _catch(names, found))
    return found


def _catch(names: tuple[str, ...], found: dict[str, torch.Tensor]) -> Callable[[str, Held], None]:
    wanted = frozenset(names)

    def visit(name: str, value: Held) -> None:
        if name in wanted and isinstance(value, torch.Tensor) and value.is_floating_point():
            found[name] = value

    return visit
