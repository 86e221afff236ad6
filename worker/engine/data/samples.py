"""What a model takes and what it is given: `InputSpec` and `Samples`, as frozen values."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class InputSpec:
    """One input of the model. `axis` counts samples, or the input is given once; None is a dynamic dimension."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]
    axis: int | None = 0

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "f"

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape fits, whatever its number of samples."""
        return len(shape) == len(self.shape) and all(
            axis == self.axis or want is None or want == got
            for axis, (want, got) in enumerate(zip(self.shape, shape, strict=True))
        )

    def wants(self) -> str:
        """The shape for people: (samples, 3, any, any)."""
        dims = ["any" if dim is None else str(dim) for dim in self.shape]
        if self.axis is None:
            return f"({', '.join(dims)}), once for all samples" if dims else "one number for all samples"
        dims[self.axis] = "samples"
        return f"({', '.join(dims)})"


@dataclass(frozen=True)
class Samples:
    """Arrays ready for the model, the same number of samples in each, and labels where there are any.

    `axes` says where samples are counted in inputs and outputs, if not on the first axis; None: nowhere."""

    inputs: Mapping[str, NDArray[np.generic]]
    labels: NDArray[np.generic] | None = None
    axes: Mapping[str, int | None] = field(default_factory=dict)

    def axis(self, name: str) -> int | None:
        return self.axes.get(name, 0)

    @cached_property
    def count(self) -> int:
        sizes = (array.shape[axis] for name, array in self.inputs.items() if (axis := self.axis(name)) is not None)
        return next(sizes, 1)

    def by_row(self, name: str) -> NDArray[np.generic]:
        """A view of an input that has samples, with their axis in front."""
        axis = self.axis(name)
        assert axis is not None, f"{name} is given once"
        return np.moveaxis(self.inputs[name], axis, 0)

    def take(self, indices: NDArray[np.intp]) -> "Samples":
        """The rows at these indices, copied, in this order."""
        labels = None if self.labels is None else self.labels[indices]
        return self._picked(lambda array, axis: np.take(array, indices, axis), labels)

    def rows(self, start: int, stop: int) -> "Samples":
        """A run of rows, as views."""
        labels = None if self.labels is None else self.labels[start:stop]
        return self._picked(lambda array, axis: array[(*[slice(None)] * axis, slice(start, stop))], labels)

    def followed_by(self, others: "Samples") -> "Samples":
        """The rows of both, without labels."""
        inputs = {
            name: array if (axis := self.axis(name)) is None else np.concatenate([array, others.inputs[name]], axis)
            for name, array in self.inputs.items()
        }
        return Samples(inputs, None, self.axes)

    def _picked(
        self,
        pick: Callable[[NDArray[np.generic], int], NDArray[np.generic]],
        labels: NDArray[np.generic] | None,
    ) -> "Samples":
        inputs = {
            name: array if (axis := self.axis(name)) is None else pick(array, axis)
            for name, array in self.inputs.items()
        }
        return Samples(inputs, labels, self.axes)

    def batches(self, size: int) -> Iterator["Samples"]:
        """All rows in order, `size` at a time; the last batch may be shorter."""
        for start in range(0, self.count, size):
            yield self.rows(start, min(start + size, self.count))
