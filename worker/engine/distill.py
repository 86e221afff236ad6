"""The pruned model is trained to give what the uploaded one gives, on unlabelled samples.

In: both graphs, samples to fit and samples held back. Out: `Distilled`: the changed constants and the held-back error
before and after. The best state by held-back error is kept, the one before training included. Zeros of a sparse weight
stay zero. Refused: what cannot be differentiated (`gradient_unavailable`).

Held-back samples are always answered in single precision; steps are computed in bfloat16 where the processor has
products for that and the models bear it. On several cores a step's samples part into lanes, a thread for each: on small
maps many cores at one operator mostly wait for each other.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch.nn import functional as F

from schemas.errors import EspalierError
from schemas.finishing import Distill
from worker.engine.data import Samples
from worker.engine.evaluate import chunk_rows, pad
from worker.engine.execute import Executor, to_numpy
from worker.engine.graph import Array, Graph
from worker.engine.likeness import Likeness, Place, difference
from worker.engine.muon import Muon, Stack, worthwhile
from worker.engine.ops.rule import ShapeOf
from worker.engine.shelf import IN_MEMORY, Shelf
from worker.engine.ties import Axis, Points

LOOKS = 10  # at what is held back, on the way
AT_ONCE = 5  # features
WARM_UP = 0.05  # of the whole: first steps have no memory to scale by
SMALLEST = 0.01  # of a weight's sizes
OF_MATRIX = 0.4  # of the rate: steps in all directions at once go further
QUICK = "amx_bf16"  # what a processor says that multiplies bfloat16 in blocks
COARSE = 1e-3  # of what the outputs vary: at most so much may rounding change
MOST_LANES = 4
OF_LANE = 4  # samples at least
MOST_WEIGHTS = 1 << 25  # of both models; of more than these no lane gets copies
EIGHTH = 8
IMAGES = 4  # dimensions

# Where operators read what may learn. What a normalisation has measured (mean, variance) stays, and so do limits.
NORMALISED = (1, 2)
SLOTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "Add": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    **dict.fromkeys(
        (
            "BatchNormalization",
            "InstanceNormalization",
            "LayerNormalization",
            "GroupNormalization",
            "RMSNormalization",
        ),
        NORMALISED,
    ),
}


@dataclass(frozen=True, eq=False)
class Distilled:
    changed: Mapping[str, Array]
    error_before: float  # held back: squared difference over the spread of the uploaded model's outputs
    error_after: float
    epochs: int


def learnable(graph: Graph) -> tuple[str, ...]:
    """Weights, biases, scales and shifts, in single precision and of more than one number."""
    found = []
    for op in graph.ops:
        for slot in SLOTS.get(op.key, ()):
            array = graph.constants.get(op.input(slot))
            if array is not None and array.dtype == np.float32 and array.size > 1:
                found.append(op.input(slot))
    return tuple(dict.fromkeys(found))


def distill(
    teacher: Graph,
    student: Graph,
    gone: Mapping[Axis, Points],
    fit: Samples,
    held: Samples,
    options: Distill,
    *,
    seed: int,
    device: str,
    keep_zeros: bool,
    tell: Callable[[float, str], None],
    shelf: Shelf = IN_MEMORY,
    clock: Callable[[], float] = time.perf_counter,
) -> Distilled:
    """Down the slope of squared differences, the rate falling along a cosine to the end of epochs or time. `gone`: the
    indices that the student has lost."""
    start = clock()
    course = _Course(teacher, _Student(student, device, keep_zeros, shelf), gone, fit, held, options, seed)
    first = best = error = course.error()
    epoch, looked = 0, 0.0

    def share(within: float) -> float:
        """How much of the way is behind: 1 where epochs or time have run out."""
        return min(max((epoch + within) / options.epochs, (clock() - start) / options.seconds), 1.0)

    while looked < 1.0:
        course.epoch(share)
        epoch += 1
        done = share(0.0)
        if done == 1.0 or done >= looked + 1 / LOOKS:
            error, looked = course.error(), done
            if error < best:
                best = error
                course.student.remember()
        tell(done, f"epoch {epoch}: held-back error {error:.4f} at the last look, {first:.4f} at first")
    return Distilled(course.student.best, first, best, epoch)


class _Student:
    """An executor whose weights learn. `best` are those that were remembered last, on the shelf."""

    def __init__(self, graph: Graph, device: str, keep_zeros: bool, shelf: Shelf) -> None:
        self.shelf = shelf
        self.best: dict[str, Array] = {}
        self.executor = Executor(graph, device)
        self.weights: dict[str, torch.Tensor] = {}
        self.masks: dict[str, torch.Tensor] = {}
        for name in learnable(graph):
            weight = self.executor.fixed[name]
            assert isinstance(weight, torch.Tensor)
            self.weights[name] = weight.clone().requires_grad_()
            if keep_zeros:
                self.masks[name] = (weight != 0).to(weight.dtype)
        if not self.weights:
            raise _nothing_learns()
        self.executor.fixed |= self.weights

    def lend(self, executor: Executor) -> dict[str, torch.Tensor]:
        """The weights as they are now, in the precision that it computes in; slopes of these are its own."""
        lent = {name: weight.detach().to(executor.floats).requires_grad_() for name, weight in self.weights.items()}
        executor.fixed |= lent
        return lent

    def settle(self) -> None:
        """After a step: slopes are let go of (while the teacher answers the next samples nobody needs them), and what
        was zero is zero again."""
        for name, weight in self.weights.items():
            weight.grad = None
            if name in self.masks:
                weight.detach().mul_(self.masks[name])

    def remember(self) -> None:
        for name, weight in self.weights.items():
            array = to_numpy(weight)
            if name not in self.best:
                blank = self.shelf.blank(array.shape, array.dtype)
                self.best[name] = np.empty_like(array) if blank is None else blank
            np.copyto(self.best[name], array)
            self.shelf.let_go(self.best[name])


class _Steps:
    """Muon's for the matrices that are worth it, Adam's for the rest. A rate is a share of each weight's own size:
    steps of one length tear small weights to pieces."""

    def __init__(self, weights: Mapping[str, torch.Tensor], matrices: Mapping[str, Stack]) -> None:
        sizes = {name: _size(weight) for name, weight in weights.items()}
        self.muon = Muon([(weights[name], stack, OF_MATRIX * sizes[name]) for name, stack in matrices.items()])
        rest = [{"params": [weights[name]], "size": sizes[name]} for name in weights if name not in matrices]
        self.adam = torch.optim.Adam(rest, fused=True) if rest else None

    def take(self, rate: float) -> None:
        self.muon.step(rate)
        if self.adam is not None:
            for group in self.adam.param_groups:
                group["lr"] = rate * group["size"]
            self.adam.step()


class _Course:
    """The teacher, the student, and what they go through."""

    def __init__(
        self,
        teacher: Graph,
        student: _Student,
        gone: Mapping[Axis, Points],
        fit: Samples,
        held: Samples,
        options: Distill,
        seed: int,
    ) -> None:
        self.options, self.fit, self.held, self.student = options, fit, held, student
        self.fixed = teacher.fixed_batch()
        self.batch = self.fixed or min(options.batch, fit.count)
        self.rows = min(self.batch, self.fixed or chunk_rows(fit))  # at once: both models' features are held for them
        self.random = np.random.default_rng(seed)
        first = next(iter(self._parts()))
        self.like = Likeness(Executor(teacher, student.executor.device), student.executor, gone, first.inputs)
        if not self.like.outputs:
            raise _nothing_learns()
        self.answers = [self.like.taught(part.inputs) for part in self._parts()]
        self.like.measured(self.answers)
        self.lanes = self._lanes(gone, first.inputs)
        matrices = worthwhile(
            student.executor.graph, student.weights, _shapes(student.executor, first.inputs), self.batch / first.count
        )
        self.steps = _Steps(student.weights, matrices)

    def _lanes(self, gone: Mapping[Axis, Points], feeds: Mapping[str, Array]) -> tuple[Likeness, ...]:
        """Both models for each thread that takes steps."""
        first = self._coarse(gone, feeds) or self.like
        count = min(torch.get_num_threads(), MOST_LANES, max(self.rows // OF_LANE, 1))
        size = sum(array.size for like in (first.teacher, first.student) for array in like.graph.constants.values())
        if first.student.device != "cpu" or self.fixed or size > MOST_WEIGHTS:
            return (first,)
        return first, *(self._beside(first.student.floats, gone, feeds) for _ in range(count - 1))

    def _beside(self, floats: torch.dtype, gone: Mapping[Axis, Points], feeds: Mapping[str, Array]) -> Likeness:
        """The same models once more."""
        teacher, student = (Executor(one.graph, floats=floats) for one in (self.like.teacher, self.like.student))
        like = Likeness(teacher, student, gone, feeds)
        like.outputs, like.features = self.like.outputs, self.like.features
        return like

    def _coarse(self, gone: Mapping[Axis, Points], feeds: Mapping[str, Array]) -> Likeness | None:
        """The same in bfloat16, for the steps: where that is quick, and both models can be run so and hardly differ."""
        if self.like.student.device != "cpu" or not torch.cpu.get_capabilities().get(QUICK):
            return None
        teacher, student = (
            Executor(one.graph, floats=torch.bfloat16) for one in (self.like.teacher, self.like.student)
        )
        try:
            coarse = Likeness(teacher, student, gone, feeds)
            if coarse.names() != self.like.names():
                return None
            coarse.outputs, coarse.features = self.like.outputs, self.like.features
            self._slopes(coarse, feeds, coarse.features, 1.0)
            taught = {name: value.float() for name, value in coarse.taught(feeds).items()}
        except (EspalierError, RuntimeError, TypeError, ValueError):
            return None
        return coarse if difference(self.like.outputs, taught, self.answers[0]) < COARSE else None

    def error(self) -> float:
        """Of the outputs, on the samples held back."""
        found = total = 0.0
        for part, answers in zip(self._parts(), self.answers, strict=True):
            found += float(difference(self.like.outputs, self.like.given(part.inputs), answers).detach()) * part.count
            total += part.count
        return found / total

    def epoch(self, share: Callable[[float], float]) -> None:
        """One pass over the samples in a new order, or as far as the time goes."""
        order = self.random.permutation(self.fit.count)
        with _threads(len(self.lanes)) as each:
            for start in range(0, len(order) - self.batch + 1, self.batch):
                done = share(start / len(order))
                if done >= 1.0:
                    return
                rate = min(1.0, done / WARM_UP) * (1 + np.cos(np.pi * done)) / 2
                self._step(self.fit.take(order[start : start + self.batch]), each)
                self.steps.take(self.options.learning_rate * float(rate))
                self.student.settle()

    def _step(self, part: Samples, each: "_Each") -> None:
        """Slopes of the mean over a step's samples, into the weights. Each lane takes parts of it, one by one, for both
        models' features are held at once; added up in their order, so that equal jobs stay equal."""
        part = replace(part, inputs=augmented(part.inputs, self.options.augment, self.random))
        lanes = len(self.lanes)
        parts = [*part.batches(self.fixed or max(-(-min(self.rows, part.count) // lanes), 1))]
        some = self._some()

        def in_lane(lane: int) -> _Slopes:
            total: _Slopes = {}
            for few in parts[lane::lanes]:
                _add(total, self._slopes(self.lanes[lane], few.inputs, some, few.count / part.count))
            return total

        whole: _Slopes = {}
        for slopes in each(in_lane, range(lanes)):
            _add(whole, slopes)
        for name, weight in self.student.weights.items():
            weight.grad = whole.get(name)

    def _some(self) -> tuple[Place, ...]:
        """Of the features a few, others in each step: they teach as much as all of them, in less time."""
        features = self.like.features
        count = min(AT_ONCE, len(features)) if self.options.features else 0
        return tuple(features[at] for at in sorted(self.random.permutation(len(features))[:count]))

    def _slopes(self, like: Likeness, feeds: Mapping[str, Array], some: tuple[Place, ...], share: float) -> "_Slopes":
        """Of so much of a step."""
        taught = like.taught(feeds, some)
        self.student.shelf.ease()
        weights = self.student.lend(like.student)
        given = like.given(feeds, some)
        loss = difference(like.outputs, given, taught)
        if some:
            loss = loss + self.options.features * difference(some, given, taught)
        if not loss.requires_grad:
            raise _nothing_learns()
        slopes = torch.autograd.grad(loss * share, [*weights.values()], allow_unused=True)
        return {name: slope for name, slope in zip(weights, slopes, strict=True) if slope is not None}

    def _parts(self) -> Iterator[Samples]:
        return (pad(part, self.fixed) for part in self.held.batches(self.rows))


_Slopes: TypeAlias = dict[str, torch.Tensor]
_Each: TypeAlias = Callable[[Callable[[int], _Slopes], Sequence[int]], Iterator[_Slopes]]


def _add(total: _Slopes, more: _Slopes) -> None:
    """In single precision, and in the order in memory that weights have: torch's fused Adam looks at no other."""
    for name, slope in more.items():
        if name in total:
            total[name] += slope
        else:
            total[name] = slope.float().contiguous()


@contextmanager
def _threads(lanes: int) -> Iterator[_Each]:
    """Runs a function of the lane in all lanes at once, each with its share of the cores."""
    cores = torch.get_num_threads()
    if lanes == 1:
        yield map
        return
    own = max(cores // lanes, 1)
    torch.set_num_threads(own)
    try:
        with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(own,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(cores)


def _shapes(executor: Executor, feeds: Mapping[str, Array]) -> ShapeOf:
    found: dict[str, tuple[int, ...]] = {}
    executor.run(feeds, lambda name, value: found.update({name: tuple(value.shape)}))
    return found.__getitem__


def _size(weight: torch.Tensor) -> float:
    """Root mean square; what is nearly zero, such as a bias, may still move."""
    return max(float(weight.detach().square().mean().sqrt()), SMALLEST)


def _nothing_learns() -> EspalierError:
    return EspalierError(
        "gradient_unavailable",
        f"no weight in single precision that {', '.join(sorted(SLOTS))} read reaches the outputs",
        where="/distill",
        hint="Leave `distill` out, or send the model as it was before it was rounded.",
    )


def augmented(feeds: Mapping[str, Array], how: str, random: np.random.Generator) -> Mapping[str, Array]:
    """Images moved and mirrored: float inputs (samples, channels, rows, columns). Others stay as they are."""
    if how == "none":
        return feeds
    return {
        name: _moved(array, how == "flip", random) if array.ndim == IMAGES and array.dtype.kind == "f" else array
        for name, array in feeds.items()
    }


def _moved(images: Array, mirror: bool, random: np.random.Generator) -> Array:
    count, _, rows, columns = images.shape
    most = rows // EIGHTH, columns // EIGHTH
    padded = F.pad(torch.from_numpy(images), (most[1], most[1], most[0], most[0]))
    tops, lefts = random.integers(0, 2 * most[0] + 1, count), random.integers(0, 2 * most[1] + 1, count)
    flips = np.logical_and(mirror, random.random(count) < 0.5)  # half of them
    cut = [
        (padded[place].flip(-1) if flips[place] else padded[place])[:, top : top + rows, left : left + columns]
        for place, (top, left) in enumerate(zip(tops, lefts, strict=True))
    ]
    moved: Array = torch.stack(cut).numpy()
    return moved
