"""Which axis of each input and output counts samples.

In: the declared dimensions (numbers, names, or nothing) of the inputs and outputs, and what the request says of some.
Out: for each the axis, or None for an input that is the same for all samples (a sampling rate, a table of positions).
Refused: names that the model does not have and axes that its tensors do not have.

Mostly it is the first axis. Where that of some input is a number, although others are open, the axis is found by the
name that it shares with another's first axis, or that means samples to people; else it is the first open one whose
name no other input has.
"""

import re
from collections import Counter
from collections.abc import Mapping

from schemas.errors import EspalierError, nearest

Dims = tuple[int | str | None, ...]
Axes = dict[str, int | None]
SAMPLES = re.compile(r"n|b|bs|samples?|.*batch.*", re.IGNORECASE)  # what people call the number of samples


def find_axes(inputs: Mapping[str, Dims], outputs: Mapping[str, Dims], asked: Mapping[str, int | None]) -> Axes:
    """The axes of all inputs and outputs."""
    _check(asked, {**outputs, **inputs})
    shared = _shared(inputs)
    name, batch = _name(inputs, asked, shared), _fixed_batch(inputs)
    found: Axes = {}
    for tensor, dims in inputs.items():
        found[tensor] = asked[tensor] if tensor in asked else _axis(dims, name, batch, shared)
    for tensor, dims in outputs.items():
        fallback = dims.index(name) if name is not None and name in dims else 0
        found[tensor] = asked.get(tensor, fallback)
    return found


def _check(asked: Mapping[str, int | None], known: Mapping[str, Dims]) -> None:
    for name, axis in asked.items():
        if name not in known:
            detail = f"sample_axes names {name!r}, which the model does not have; {nearest(name, tuple(known))}"
            raise EspalierError("data_input_unknown", detail, where="/sample_axes")
        if axis is not None and axis >= len(known[name]):
            detail = f"sample_axes says axis {axis} of {name!r}, which has {len(known[name])} axes"
            raise EspalierError("data_shape_mismatch", detail, where="/sample_axes")


def _shared(inputs: Mapping[str, Dims]) -> frozenset[str]:
    """Names that stand in several inputs."""
    count = Counter(name for dims in inputs.values() for name in {dim for dim in dims if isinstance(dim, str)})
    return frozenset(name for name, times in count.items() if times > 1)


def _name(inputs: Mapping[str, Dims], asked: Mapping[str, int | None], shared: frozenset[str]) -> str | None:
    """The name of the number of samples; None where the first axis is that of the samples anyway."""
    for tensor, axis in asked.items():
        dims = inputs.get(tensor, ())
        if axis is not None and axis < len(dims) and isinstance(dim := dims[axis], str):
            return dim
    if all(dims and not isinstance(dims[0], int) for dims in inputs.values()):
        return None
    names = list(dict.fromkeys(dim for dims in inputs.values() for dim in dims if isinstance(dim, str)))
    first = [name for name in names if name in shared and any(dims[:1] == (name,) for dims in inputs.values())]
    called = [name for name in names if SAMPLES.fullmatch(name)]
    return next(iter((*first, *called)), None)


def _fixed_batch(inputs: Mapping[str, Dims]) -> int | None:
    """The first axis of the first input, where all first axes are numbers."""
    fronts = [dims[0] for dims in inputs.values() if dims]
    numbers = [front for front in fronts if isinstance(front, int)]
    return numbers[0] if fronts and len(numbers) == len(fronts) else None


def _axis(dims: Dims, name: str | None, batch: int | None, shared: frozenset[str]) -> int | None:
    if name is not None and name in dims:
        return dims.index(name)
    if not dims:
        return None
    if name is None and batch is not None:
        alike = [axis for axis, dim in enumerate(dims) if dim == batch]
        return 0 if dims[0] == batch else alike[0] if len(alike) == 1 else None
    if not isinstance(dims[0], int):
        return 0
    free = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int) and dim not in shared]
    return free[0] if free else None
