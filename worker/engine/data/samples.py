"""What a model takes and what it is given: `InputSpec` and `Samples`, as frozen values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class InputSpec:
    """One input of the model. The first axis is the batch; None is a dynamic dimension."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "f"

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an array (samples, ...) of this shape fits, whatever its number of samples."""
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape[1:], shape[1:], strict=True)
        )

    def wants(self) -> str:
        """The shape for people: (samples, 3, any, any)."""
        dims = ["samples", *("any" if dim is None else str(dim) for dim in self.shape[1:])]
        return f"({', '.join(dims)})"


@dataclass(frozen=True)
class Samples:
    """Arrays ready for the model, the same number of rows in each, and labels where there are any."""

    inputs: Mapping[str, NDArray[np.generic]]
    labels: NDArray[np.generic] | None = None

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, indices: NDArray[np.intp]) -> "Samples":
        """The rows at these indices, copied, in this order."""
        labels = None if self.labels is None else self.labels[indices]
        return Samples({name: array[indices] for name, array in self.inputs.items()}, labels)

    def rows(self, start: int, stop: int) -> "Samples":
        """A run of rows, as views."""
        labels = None if self.labels is None else self.labels[start:stop]
        return Samples({name: array[start:stop] for name, array in self.inputs.items()}, labels)

    def batches(self, size: int) -> Iterator["Samples"]:
        """All rows in order, `size` at a time; the last batch may be shorter."""
        for start in range(0, self.count, size):
            yield self.rows(start, min(start + size, self.count))
