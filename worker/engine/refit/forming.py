"""Units that stay are formed anew: what makes them descends together with what reads them.

In: a reading, the groups that it reads, what both models hold there. Out: constants that have changed and how the error
on held-back samples compares; nothing where it has not become less. A reading may read several groups side by side, and
units that only their makers read are formed with them. Left out: units that several operators make, or that others read
as well, and what anybody else reads between their making and their reading.

Least squares finds the best weights on the units that are left; here these become the units of the smaller network.
Whatever goes, of any group, is out of the descent: weights must not learn to use what will be cut away. The rate of a
weight is relative to the weights of its output, so that it does not matter whether a normalisation has been written
into them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi

import numpy as np
import torch

from worker.engine import cost
from worker.engine.axes import Group
from worker.engine.execute import Executor, Held
from worker.engine.graph import Array, Graph, Op
from worker.engine.ops import RULES
from worker.engine.ops.rule import NoTorchForm
from worker.engine.refit.readings import Reading
from worker.engine.ties import Axis, Points

STEPS = 100
THOROUGH = 2.5  # times as many, where that is asked for
OF_SAMPLES = 4  # times as many steps where each sample is one place, and a step is little work
LOOKS = 5  # on the way: held-back samples say which weights were the best
WARM_UP = 5
MEMORY = 0.9, 0.95  # of slopes and of their squares
RATE = 0.02
ROWS = 16384  # places of each step, in as many samples as that takes
FEWEST, MOST = 8, 24  # samples of each step, where these have places enough
FEWEST_ROWS = 1024
MOST_WEIGHTS = 1 << 22  # that move: four copies of them are held
MOST_OPS = 24
MOST_STARTS = 4  # values of the student that are held until the descent
OLDEST = 7  # opset; before it broadcasting is spelled out
JUDGED_AT_ONCE = 64
TINY = 1e-12
OF_SCORES = 0.003  # beside the chances of classes: of squared differences of scores
MAKERS = ("Conv", "Gemm", "MatMul")
BETWEEN = frozenset({
    *MAKERS, "BatchNormalization", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "Erf", "Gelu",
    "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Dropout", "Identity", "Add", "Sub", "Mul", "Div",
    "Concat",
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class Forming:
    """`ops` lead from what makes the units to the end of the reading's tail, in order; on the way they may part and
    meet again, as in x times its sigmoid. `starts` are what they read from before, `weights` descend with their
    `biases`; each weight with the axis of its outputs."""

    reading: Reading
    groups: tuple[str, ...]
    ops: tuple[Op, ...]
    starts: tuple[str, ...]
    weights: Mapping[str, int]  # of the makers, of the reader
    biases: Mapping[str, str]  # by weight


def forming(graph: Graph, reading: Reading, groups: Mapping[str, Group]) -> Forming | None:
    """What forms the units that a reading reads; None where that is left as it is."""
    if not reading.units or reading.lanes is not None or reading.wide or reading.linear.slot != 0:
        return None
    own = [groups[name] for name in reading.units]
    if any(len(one.consumers) != 1 or len(one.producers) != 1 for one in own):
        return None
    own += _behind(own, groups.values())
    makes = [(one.producers[0].op, one.producers[0].weight, one.producers[0].axis) for one in own]
    ops = _between(graph, [op for op, _, _ in makes], reading)
    starts = _starts(graph, ops, reading)
    if not ops or len(starts) > MOST_STARTS:
        return None
    reads = next(one for group in own for one in group.consumers if one.op is reading.op)
    axis = 0 if reading.op.key == "Conv" else 1 - reads.weight_axis
    weighed = [*makes, (reading.op, reads.weight, axis)]
    biases = {weight: op.input(2) for op, weight, _ in weighed if op.input(2)}
    names = [*(weight for _, weight, _ in weighed), *biases.values()]
    arrays = [graph.constants[name] for name in names if name in graph.constants]
    alone = len(arrays) == len(names) and all(len(graph.readers[name]) == 1 for name in names)
    if not alone or not all(cost.is_real(one) for one in arrays) or sum(one.size for one in arrays) > MOST_WEIGHTS:
        return None
    if any(weight != op.input(1) for op, weight, _ in weighed):
        return None
    return Forming(
        reading,
        tuple(one.name for one in own),
        ops,
        starts,
        {weight: along for _, weight, along in weighed},
        biases,
    )


def _behind(own: Sequence[Group], groups: Iterable[Group]) -> list[Group]:
    """Units that several operators read, all of which make units for this reading: nobody else forms them."""
    makers = {one.producers[0].op.index for one in own}
    return [
        one
        for one in groups
        if len(one.consumers) > 1 and len(one.producers) == 1 and {each.op.index for each in one.consumers} <= makers
    ]


def _between(graph: Graph, makers: Sequence[Op], reading: Reading) -> tuple[Op, ...]:
    """From the makers of units to the end of the reading's tail; nothing where anybody else reads what is between."""
    ops, inside = _downstream(graph, makers, reading.tail.end)
    if reading.op not in ops or reading.tail.end not in inside or len(ops) > MOST_OPS:
        return ()
    own, outputs = {op.index for op in ops}, {port.name for port in graph.outputs}
    for name in inside - {reading.tail.end}:
        if name in outputs or any(one.index not in own for one in graph.readers.get(name, ())):
            return ()
    before = ops[: ops.index(reading.op) + 1]
    plain = all(op.key in BETWEEN and op.integer("group", 1) == 1 and op.opset >= OLDEST for op in before)
    weighed = {op.index for op in (*makers, reading.op)}
    whole = all(op.index in weighed and op.inputs[0] not in graph.constants for op in before if op.key in MAKERS)
    return tuple(ops) if plain and whole and len(makers) + 1 == len(weighed) else ()


def _downstream(graph: Graph, makers: Sequence[Op], end: str) -> tuple[list[Op], set[str]]:
    """The operators that what these give reaches, up to the one that gives the end; and all that they give."""
    ops, inside = list[Op](), set[str]()
    first, others = min(op.index for op in makers), {op.index for op in makers}
    for op in graph.ops[first:]:
        if end in inside or len(ops) > MOST_OPS:
            break
        if op.index in others or inside & {*op.inputs, *op.captures}:
            ops.append(op)
            inside |= {name for name in op.outputs if name}
    return ops, inside


def _starts(graph: Graph, ops: Sequence[Op], reading: Reading) -> tuple[str, ...]:
    """What is read that nobody makes on the way, but for what is known to be added behind the reading."""
    known = {"", *graph.constants, *(name for op in ops for name in op.outputs)}
    behind = {*reading.tail.addends}
    read = (name for op in ops for name in op.inputs if op.index <= reading.op.index or name not in behind)
    return tuple(dict.fromkeys(name for name in read if name not in known))


@dataclass(frozen=True, eq=False)
class Stretch:
    """What a chain sees of a batch: what it reads, where it starts and where something is added, and what the teacher
    has at its end."""

    read: Mapping[str, torch.Tensor]
    end: torch.Tensor

    def some(self, at: torch.Tensor | slice) -> "Stretch":
        return Stretch({name: one[at] for name, one in self.read.items()}, self.end[at])

    def alike(self) -> bool:
        """Whether the first axis counts the samples of all."""
        return len({len(one) for one in (self.end, *self.read.values())}) == 1


class Descent:
    """The chain over all that stays, of whatever group: what it reads, makes and gives. What descends is a step from
    where the weights are, in shares of the mean size of the weights of the same output. `lost`: the indices that go;
    `worth`: of an error in each output; `chooses`: whether its end is a row of scores of which the largest wins."""

    def __init__(
        self,
        chain: Forming,
        executor: Executor,
        lost: Mapping[Axis, Points],
        worth: torch.Tensor | None = None,
        chooses: bool = False,
    ) -> None:
        self.chain, self.executor, self.lost, self.chooses = chain, executor, lost, chooses
        self.worth = torch.ones(()) if worth is None else self._kept(chain.reading.tail.end, worth)
        names = {name for op in chain.ops for name in op.inputs if name in executor.graph.constants}
        self.held = {name: self._kept(name, executor.fixed[name]) for name in names}
        self.offsets = {
            op.outputs[0]: self._kept(op.outputs[0], executor.offsets[op.outputs[0]])
            for op in chain.ops
            if op.outputs[0] in executor.offsets
        }
        self.sizes = self._sizes()
        self.moved = {name: torch.zeros_like(self.held[name], requires_grad=True) for name in self.sizes}

    def _kept(self, name: str, value: Held) -> torch.Tensor:
        assert isinstance(value, torch.Tensor)
        for axis in range(value.ndim):
            if (name, axis) in self.lost and value.shape[axis] > 1:
                value = value.index_select(axis, self._stays(name, axis, value.shape[axis]))
        return value

    def _stays(self, name: str, axis: int, size: int) -> torch.Tensor:
        found = np.setdiff1d(np.arange(size), self.lost.get((name, axis), ()))
        return torch.from_numpy(found).to(self.executor.device)

    def _sizes(self) -> dict[str, torch.Tensor]:
        found = {}
        for name, axis in self.chain.weights.items():
            weight = self.held[name]
            over = [one for one in range(weight.ndim) if one != axis]
            found[name] = weight.square().mean(dim=over, keepdim=True).sqrt()
            bias = self.chain.biases.get(name)
            if bias and self.held[bias].shape[-1] == found[name].numel():
                found[bias] = found[name].flatten()
        return found

    def now(self) -> dict[str, torch.Tensor]:
        return {name: self.held[name] + size * self.moved[name] for name, size in self.sizes.items()}

    def end(self, seen: Stretch) -> torch.Tensor:
        """What the chain gives, as far as it passes a ReLU that follows."""
        read = {name: self._kept(name, value) for name, value in seen.read.items()}
        live = {**self.held, **self.now(), **read}
        for op in self.chain.ops:
            (value, *_) = RULES[op.key].compute(op, [live[name] if name else None for name in op.inputs])
            live[op.outputs[0]] = value + self.offsets[op.outputs[0]] if op.outputs[0] in self.offsets else value
        return self.passing(live[self.chain.ops[-1].outputs[0]])

    def passing(self, end: torch.Tensor) -> torch.Tensor:
        return end.clamp_min(0.0) if self.chain.reading.tail.rectified else end

    def wrong(self, seen: Stretch) -> torch.Tensor:
        """Of every output that stays. Where classes are chosen: how far the chances lie apart, and a little of how far
        the scores do, so that they do not run away."""
        end, taught = self.end(seen), self._taught(seen)
        if not self.chooses:
            return self._squares(end, taught)
        chances = torch.log_softmax(taught, dim=1)
        apart = chances.exp() * (chances - torch.log_softmax(end, dim=1))
        return apart + OF_SCORES * self._squares(end, taught)

    def _squares(self, end: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
        """As far as an output is worth anything."""
        return (end - taught).square() * self.worth

    def squares(self, seen: Stretch) -> torch.Tensor:
        return self._squares(self.end(seen), self._taught(seen))

    def _taught(self, seen: Stretch) -> torch.Tensor:
        return self.passing(self._kept(self.chain.reading.tail.end, seen.end))

    def run(
        self, fit: Sequence[Stretch], held: Sequence[Stretch], generator: torch.Generator, effort: float = 1.0
    ) -> tuple[float, float]:
        """The error on held-back samples before and after: of all the weights looked at, the best stay."""
        before = lowest = self.error(held)
        best = self._ways()
        steps = int(STEPS * effort * (OF_SAMPLES if self._places(fit[0]) == 1 else 1))
        for step in self._descending(fit, steps, generator):
            if step % max(steps // LOOKS, 1) == 0 and (found := self.error(held)) < lowest:
                best, lowest = self._ways(), found
        for name, way in best.items():
            self.moved[name].detach().copy_(way)
        return before, lowest

    def _ways(self) -> dict[str, torch.Tensor]:
        return {name: way.detach().clone() for name, way in self.moved.items()}

    def _descending(self, fit: Sequence[Stretch], steps: int, generator: torch.Generator) -> Iterator[int]:
        """Adam, written out: torch's own loads its compiler first, which takes longer than a small job."""
        count, ways = self._samples(fit[0]), list(self.moved.values())
        means, squares = ([torch.zeros_like(way) for way in ways] for _ in range(2))
        level = float(torch.stack([(self._taught(one).square() * self.worth).mean() for one in fit]).mean())
        for step in range(1, steps + 1):
            batch = fit[int(torch.randint(len(fit), (1,), generator=generator))]
            if batch.alike():
                batch = batch.some(torch.randperm(len(batch.end), generator=generator)[:count])
            with torch.enable_grad():
                slopes = torch.autograd.grad(self.wrong(batch).mean() / max(level, TINY), ways)
            rate = RATE * min(1.0, step / WARM_UP) * (1 + cos(pi * (step - 1) / steps)) / 2
            for way, slope, mean, square in zip(ways, slopes, means, squares, strict=True):
                mean.lerp_(slope, 1 - MEMORY[0])
                square.lerp_(slope.square(), 1 - MEMORY[1])
                length = (square / (1 - MEMORY[1] ** step)).sqrt() + TINY
                way.detach().sub_(rate / (1 - MEMORY[0] ** step) * mean / length)
            yield step

    def _places(self, batch: Stretch) -> int:
        """Of each sample."""
        return max(batch.end.numel() // max(len(batch.end), 1) // max(self.chain.reading.linear.outputs, 1), 1)

    def _samples(self, batch: Stretch) -> int:
        places = self._places(batch)
        return max(min(ROWS // places, MOST), FEWEST_ROWS // places, FEWEST)

    @torch.no_grad()
    def error(self, held: Sequence[Stretch], wrong: Callable[[Stretch], torch.Tensor] | None = None) -> float:
        total, wrong = 0.0, wrong or self.wrong
        for batch in held:
            parts = range(0, len(batch.end), JUDGED_AT_ONCE) if batch.alike() else (None,)
            for at in parts:
                seen = batch if at is None else batch.some(slice(at, at + JUDGED_AT_ONCE))
                total += float(wrong(seen).sum(dtype=torch.float64))
        return total

    def arrays(self) -> dict[str, Array]:
        """The weights at full width; those of units that go are what they were."""
        found = {}
        for name, value in self.now().items():
            whole = self.executor.fixed[name]
            assert isinstance(whole, torch.Tensor)
            at = [self._stays(name, axis, size) for axis, size in enumerate(whole.shape)]
            whole = whole.clone()
            whole[torch.meshgrid(*at, indexing="ij")] = value.detach()
            found[name] = whole.cpu().numpy().astype(self.executor.graph.constants[name].dtype)
        return found


def formed(
    chain: Forming,
    executor: Executor,
    lost: Mapping[Axis, Points],
    fit: Sequence[Stretch],
    held: Sequence[Stretch],
    worth: torch.Tensor,
    generator: torch.Generator,
    effort: float = 1.0,
    chooses: bool = False,
) -> tuple[dict[str, Array], float] | None:
    """The weights as they have descended, and the squared error on held-back samples as a share of what it was."""
    descent = Descent(chain, executor, lost, worth, chooses)
    try:
        squares = descent.error(held, descent.squares) if chooses else 0.0
        before, after = descent.run(fit, held, generator, effort)
    except NoTorchForm:
        return None
    if after >= before:
        return None
    return descent.arrays(), descent.error(held, descent.squares) / squares if squares else after / before
