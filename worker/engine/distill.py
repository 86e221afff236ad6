"""The pruned model is trained to give what the uploaded one gives, on unlabelled samples.

In: both graphs, samples to fit and samples held back. Out: `Distilled`: the changed constants and the held-back error
before and after. The best state by held-back error is kept, the one before training included. Zeros of a sparse weight
stay zero. Refused: what cannot be differentiated (`gradient_unavailable`).

Held-back samples are always answered in single precision; steps are computed in bfloat16 where the processor has
products for that, the work is worth it, and the models bear it. On several cores both models are copied, a thread for
each copy, and a step's samples are shared out: on small maps many cores at one operator mostly wait for each other.
What learns, and its steps, are in `learning`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch

from schemas.errors import EspalierError
from schemas.finishing import Distill
from worker.engine.augment import augmented
from worker.engine.cost import macs_by_op
from worker.engine.data import Samples
from worker.engine.evaluate import chunk_rows, pad
from worker.engine.execute import Executor
from worker.engine.graph import Array, Graph
from worker.engine.learning import Steps, Student, nothing_learns
from worker.engine.likeness import Likeness, Place, difference
from worker.engine.muon import worthwhile
from worker.engine.ops.rule import ShapeOf
from worker.engine.shelf import IN_MEMORY, Shelf
from worker.engine.ties import Axis, Points

LOOKS = 10  # at what is held back, on the way
AT_ONCE = 5  # features
WARM_UP = 0.05  # of the whole: first steps have no memory to scale by
QUICK = "amx_bf16", "avx512_bf16"  # what a processor says that has products of bfloat16
LITTLE = 1 << 21  # multiply-accumulates of an operator in a step: of fewer rounding takes longer than it saves
COARSE = 1e-3  # of what the outputs vary: at most so much may rounding change
MOST_COPIES = 4  # of both models, a thread for each
OF_COPY = 4  # samples at least
MOST_WEIGHTS = 1 << 25  # of both models: of more there are no copies


@dataclass(frozen=True, eq=False)
class Distilled:
    changed: Mapping[str, Array]
    error_before: float  # held back: squared difference over the spread of the uploaded model's outputs
    error_after: float
    epochs: int


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
    course = _Course(teacher, Student(student, device, keep_zeros, shelf), gone, fit, held, options, seed)
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


class _Course:
    """The teacher, the student, and what they go through."""

    def __init__(
        self,
        teacher: Graph,
        student: Student,
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
        graph, shape = student.executor.graph, _shapes(student.executor, first.inputs)
        times = self.batch / first.count  # these shapes, in a step
        self.little = sum(macs_by_op(graph, shape).values()) * times < LITTLE * len(graph.ops)
        self.like = Likeness(Executor(teacher, student.executor.device), student.executor, gone, first.inputs)
        if not self.like.outputs:
            raise nothing_learns()
        self.answers = [self.like.taught(part.inputs) for part in self._parts()]
        self.like.measured(self.answers)
        self.copies = self._copies(first.inputs)
        self.steps = Steps(student.weights, worthwhile(graph, student.weights, shape, times))

    def _copies(self, feeds: Mapping[str, Array]) -> tuple[Likeness, ...]:
        """Both models for each thread that takes steps."""
        like = self.like
        size = sum(array.size for one in (like.teacher, like.student) for array in one.graph.constants.values())
        first = self._coarse(feeds) or like
        if like.student.device != "cpu" or self.fixed or size > MOST_WEIGHTS:
            return (first,)
        count = min(torch.get_num_threads(), MOST_COPIES, max(self.rows // OF_COPY, 1))
        return first, *(like.beside(first.student.floats) for _ in range(count - 1))

    def _coarse(self, feeds: Mapping[str, Array]) -> Likeness | None:
        """The same in bfloat16, for the steps: where that is quick, and both models can be run so and hardly differ."""
        says = torch.cpu.get_capabilities()
        if self.like.student.device != "cpu" or self.little or not any(says.get(one) for one in QUICK):
            return None
        coarse = self.like.beside(torch.bfloat16)
        try:
            self._slopes(coarse, feeds, coarse.features, 1.0)
            taught = {name: value.float() for name, value in coarse.taught(feeds).items()}
        except (EspalierError, RuntimeError, TypeError, ValueError, KeyError):  # the last: no tensor there
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
        with _threads(len(self.copies)) as each:
            for start in range(0, len(order) - self.batch + 1, self.batch):
                done = share((start + self.batch / 2) / len(order))  # amid the step: at 0 the clock would lead
                if done >= 1.0:
                    return
                rate = min(1.0, done / WARM_UP) * (1 + np.cos(np.pi * done)) / 2
                if self._step(self.fit.take(order[start : start + self.batch]), each):
                    self.steps.take(self.options.learning_rate * float(rate))
                self.student.settle()

    def _step(self, part: Samples, each: "_Each") -> bool:
        """Slopes of the mean over a step's samples, into the weights. Each copy takes parts of it, one by one, for both
        models' features are held at once; added up in their order, so that equal jobs stay equal. Whether they are
        finite: one step along others, and all that was learnt is lost."""
        part = replace(part, inputs=augmented(part.inputs, self.options.augment, self.random))
        count = len(self.copies)
        parts = [*part.batches(self.fixed or max(-(-min(self.rows, part.count) // count), 1))]
        some = self._some()

        def of_copy(number: int) -> _Slopes:
            total: _Slopes = {}
            for few in parts[number::count]:
                _add(total, self._slopes(self.copies[number], few.inputs, some, few.count / part.count))
            return total

        whole: _Slopes = {}
        for slopes in each(of_copy, range(count)):
            _add(whole, slopes)
        for name, weight in self.student.weights.items():
            weight.grad = whole.get(name)
        return bool(torch.isfinite(torch.nn.utils.get_total_norm(whole.values())))

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
            raise nothing_learns()
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
def _threads(count: int) -> Iterator[_Each]:
    """Runs a function in so many threads at once, each with its share of the cores."""
    cores = torch.get_num_threads()
    if count == 1:
        yield map
        return
    own = max(cores // count, 1)
    torch.set_num_threads(own)
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(own,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(cores)


def _shapes(executor: Executor, feeds: Mapping[str, Array]) -> ShapeOf:
    found: dict[str, tuple[int, ...]] = {}
    executor.run(feeds, lambda name, value: found.update({name: tuple(value.shape)}))
    return found.__getitem__
