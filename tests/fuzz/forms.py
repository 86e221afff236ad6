"""Ways in which an operator may be called, found by trying.

A form proposes inputs and attributes for any operator, from the values at hand. Whether an operator takes a form is
read from its schema and then tried in onnxruntime, so an operator that is added to the engine's table is called in
every way that fits it, without being named here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name and what one run gave."""

    name: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


@dataclass(frozen=True)
class Call:
    """One proposal. Inputs are names of values, arrays that become initializers, or "" where one is absent."""

    inputs: Sequence[str | Array]
    attrs: Mapping[str, object] = field(default_factory=dict)
    outputs: int = 1


@dataclass(frozen=True)
class Draw:
    """What a form may look at: the main operand, all values, and the randomness."""

    rng: np.random.Generator
    x: Value
    values: Sequence[Value]

    @property
    def rank(self) -> int:
        return len(self.x.shape)

    @property
    def channels(self) -> int:
        return self.x.shape[1] if self.rank > 1 else 1

    def weight(self, *shape: int) -> Array:
        scale = np.sqrt(max(np.prod(shape[1:]), 1))
        return np.asarray(self.rng.standard_normal(shape) / scale).astype(np.float32)

    def positive(self, *shape: int) -> Array:
        return np.asarray(self.rng.uniform(0.5, 1.5, shape)).astype(np.float32)

    def width(self) -> int:
        return int(self.rng.choice([4, 6, 8]))

    def axis(self) -> int:
        """Any, and more often that of the channels; counted from either end."""
        axis = 1 if self.rank > 1 and self.rng.random() < 0.5 else int(self.rng.integers(self.rank))
        return axis - (self.rank if self.rng.random() < 0.3 else 0)

    def mate(self) -> Value:
        """A value of the same type, with luck another one of a shape that broadcasts."""
        same = [one for one in self.values if one.array.dtype == self.x.array.dtype]
        alike = [one for one in same if one.shape == self.x.shape and one.name != self.x.name]
        return self.pick(alike if alike and self.rng.random() < 0.8 else same)

    def pick(self, things: Sequence[Value]) -> Value:
        return things[int(self.rng.integers(len(things)))]


Form = Callable[[Draw], Call | None]


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def alone(d: Draw) -> Call:
    return Call([d.x.name])


def along(d: Draw) -> Call:
    return Call([d.x.name], {"axis": d.axis()})


def along_keeping(d: Draw) -> Call:
    return Call([d.x.name], {"axis": d.axis(), "keepdims": int(d.rng.integers(2))})


def together(d: Draw) -> Call:
    pair = [d.x.name, d.mate().name]
    return Call(pair if d.rng.random() < 0.5 else pair[::-1])


def three(d: Draw) -> Call:
    return Call([d.x.name, d.mate().name, d.mate().name])


def joined(d: Draw) -> Call:
    """With values that differ on one axis alone, if there are any; else with itself."""
    same = [v for v in d.values if v.array.dtype == d.x.array.dtype and len(v.shape) == d.rank and v.name != d.x.name]
    axes = [d.axis(), *range(1, d.rank)]
    for axis in axes:
        rest = [size for one, size in enumerate(d.x.shape) if one != axis % d.rank]
        fit = [v for v in same if rest == [size for one, size in enumerate(v.shape) if one != axis % d.rank]]
        if fit:
            others = [d.pick(fit).name for _ in range(int(d.rng.choice([1, 1, 2])))]
            return Call([d.x.name, *others] if d.rng.random() < 0.5 else [*others, d.x.name], {"axis": axis})
    return Call([d.x.name, d.x.name], {"axis": axes[0]})


def with_constant(d: Draw) -> Call:
    """A scalar, a vector along the last axis, or a value for each channel, on either side."""
    shapes = [(), d.x.shape[-1:], (d.channels, *(1,) * (d.rank - 2)), (1, d.channels, *(1,) * (d.rank - 2))]
    shape = shapes[int(d.rng.integers(len(shapes)))]
    constant: Array = d.positive(*shape).astype(d.x.array.dtype)
    pair: list[str | Array] = [d.x.name, constant]
    return Call(pair if d.rng.random() < 0.7 else pair[::-1])


def bounded(d: Draw) -> Call:
    return Call([d.x.name, np.array(-0.4, np.float32), np.array(0.9, np.float32)])


def chosen(d: Draw) -> Call | None:
    conditions = [one for one in d.values if one.array.dtype == np.bool_ and one.shape == d.x.shape]
    mask: str | Array = d.pick(conditions).name if conditions else d.rng.random(d.x.shape[1:]) < 0.5
    return Call([mask, d.x.name, d.mate().name])


def convolved(d: Draw) -> Call | None:
    if d.rank < 3:
        return None
    spatial = d.rank - 2
    kernel = int(d.rng.choice([1, 3]))
    groups = int(d.rng.choice([g for g in (1, 1, 2, d.channels) if d.channels % g == 0]))
    out = int(d.width() // groups + 1) * groups
    weight = d.weight(out, d.channels // groups, *(kernel,) * spatial)
    attrs: dict[str, object] = {"pads": [kernel // 2] * (2 * spatial), "group": groups}
    if d.rng.random() < 0.3:
        attrs["strides"] = [2] * spatial
    return Call([d.x.name, weight, *([d.weight(out)] if d.rng.random() < 0.7 else [])], attrs)


def convolved_back(d: Draw) -> Call | None:
    """Transposed: the weight's first axis reads, its second writes."""
    if d.rank < 3:
        return None
    groups = int(d.rng.choice([g for g in (1, 1, 2, d.channels) if d.channels % g == 0]))
    weight = d.weight(d.channels, int(d.rng.choice([1, 2, 4])), *(2,) * (d.rank - 2))
    bias = [d.weight(weight.shape[1] * groups)] if d.rng.random() < 0.7 else []
    return Call([d.x.name, weight, *bias], {"strides": [2] * (d.rank - 2), "group": groups})


def pooled(d: Draw) -> Call | None:
    kernel = int(d.rng.choice([2, 3]))
    if d.rank < 3 or min(d.x.shape[2:]) < kernel:  # a window larger than the map is left to each runtime's taste
        return None
    attrs: dict[str, object] = {
        "kernel_shape": [kernel] * (d.rank - 2),
        "strides": [int(d.rng.choice([1, 2]))] * (d.rank - 2),
    }
    if kernel == 3:
        attrs["pads"] = [1] * (2 * (d.rank - 2))
    return Call([d.x.name], attrs)


def gemm(d: Draw) -> Call | None:
    if d.rank != 2:
        return None
    flip = int(d.rng.integers(2))
    out, inner = d.width(), d.x.shape[1]
    weight = d.weight(out, inner) if flip else d.weight(inner, out)
    return Call([d.x.name, weight, d.weight(out)], {"transB": flip})


def multiplied(d: Draw) -> Call:
    return Call([d.x.name, d.weight(d.x.shape[-1], d.width())])


def multiplied_from_the_left(d: Draw) -> Call | None:
    return Call([d.weight(d.width(), d.x.shape[-2]), d.x.name]) if d.rank > 1 else None


def summed_over(d: Draw) -> Call | None:
    letters = "abcd"[: d.rank]
    return Call(
        [d.x.name, d.weight(d.width(), d.x.shape[-1])], {"equation": f"{letters},o{letters[-1]}->{letters[:-1]}o"}
    )


def _channel_wise(count: int, **attrs: object) -> Form:
    def form(d: Draw) -> Call:
        return Call([d.x.name, *(d.positive(d.channels) for _ in range(count))], attrs)

    form.__name__ = f"channel_wise_{count}"
    return form


def _last_wise(count: int) -> Form:
    def form(d: Draw) -> Call:
        return Call([d.x.name, *(d.positive(d.x.shape[-1]) for _ in range(count))], {"axis": -1})

    form.__name__ = f"last_wise_{count}"
    return form


def sized(d: Draw) -> Call:
    return Call([d.x.name], {"size": 3})


def some_axes(d: Draw) -> tuple[int, ...]:
    count = int(d.rng.integers(1, max(d.rank, 2)))
    return tuple(sorted(int(one) for one in d.rng.choice(d.rank, count, replace=False)))


def reduced(d: Draw) -> Call:
    return Call([d.x.name], {"axes": list(some_axes(d)), "keepdims": int(d.rng.integers(2))})


def reduced_by_input(d: Draw) -> Call:
    return Call([d.x.name, ints(*some_axes(d))], {"keepdims": int(d.rng.integers(2))})


def permuted(d: Draw) -> Call:
    keep_batch = d.rng.random() < 0.8
    rest = 1 + d.rng.permutation(d.rank - 1) if keep_batch else d.rng.permutation(d.rank)
    return Call([d.x.name], {"perm": [0, *map(int, rest)] if keep_batch else list(map(int, rest))})
