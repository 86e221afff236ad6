"""Applies `options.preprocess`: layout, then channels, then `(x / scale - mean) / std` in float32.

In: an uploaded array and the input it is for. Out: an array that has the input's layout. Refused, as
`preprocess_invalid`: lengths of mean and std that do not fit the channels, channels that are not three, a layout
without an axis for channels, arithmetic on inputs that are not floats.

The channel axis is axis 1 (for tables: the features), or the last where `layout` says that the model takes NHWC.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.errors import EspalierError, nearest
from schemas.request import Preprocess
from worker.engine.data.samples import InputSpec


def chosen_inputs(options: Preprocess, specs: Sequence[InputSpec]) -> frozenset[str]:
    """The names of the inputs that `preprocess` applies to."""
    if options == Preprocess():
        return frozenset()
    names = tuple(spec.name for spec in specs)
    for name in options.inputs:
        if name not in names:
            detail = f"preprocess.inputs names {name!r}, which is not an input of the model; {nearest(name, names)}"
            raise EspalierError("preprocess_invalid", detail, where="options.preprocess.inputs")
    if options.inputs:
        return frozenset(options.inputs)
    floats = [spec.name for spec in specs if spec.is_float] or list(names)
    if len(floats) > 1:
        detail = f"the model has several inputs ({', '.join(floats)}); say which in preprocess.inputs"
        raise EspalierError("preprocess_invalid", detail, where="options.preprocess.inputs")
    return frozenset(floats)


def arrange(array: NDArray[np.generic], spec: InputSpec, options: Preprocess) -> tuple[NDArray[np.generic], int]:
    """A view of the array in the model's layout and order of channels, and the channel axis."""
    where = f"options.preprocess, input {spec.name!r}"
    array, axis = _lay_out(array, spec, options, where)
    if options.channels == "BGR":
        if array.ndim < 3 or array.shape[axis] != 3:
            detail = f"channels BGR needs three channels on axis {axis}; the array is {array.shape}"
            raise EspalierError("preprocess_invalid", detail, where=where, hint=_layout_hint(options))
        array = np.flip(array, axis)
    return array, axis


def arithmetic(array: NDArray[np.generic], axis: int, spec: InputSpec, options: Preprocess) -> NDArray[np.generic]:
    """`(x / scale - mean) / std` in float32, into memory of its own where it changes anything."""
    if options.scale is None and not options.mean and not options.std:
        return array
    where = f"options.preprocess, input {spec.name!r}"
    if not spec.is_float:
        detail = f"scale, mean and std apply to float inputs; this one is {spec.dtype}"
        raise EspalierError("preprocess_invalid", detail, where=where)
    work: NDArray[np.float32] = np.array(array, dtype=np.float32, order="C")
    if options.scale is not None:
        work /= np.float32(options.scale)
    if options.mean:
        work -= _per_channel(options.mean, "mean", work.shape, axis, options, where)
    if options.std:
        work /= _per_channel(options.std, "std", work.shape, axis, options, where)
    return work


def _lay_out(
    array: NDArray[np.generic], spec: InputSpec, options: Preprocess, where: str
) -> tuple[NDArray[np.generic], int]:
    """Where both layouts would fit the model's input, ONNX's own NCHW wins."""
    if options.layout is None:
        return array, 1
    if array.ndim < 3:
        detail = f"layout {options.layout} needs an axis for the channels; the array is {array.shape}"
        raise EspalierError("preprocess_invalid", detail, where=where)
    if options.layout == "NHWC":
        first = np.moveaxis(array, -1, 1)
        return (first, 1) if spec.takes(first.shape) or not spec.takes(array.shape) else (array, array.ndim - 1)
    last = np.moveaxis(array, 1, -1)
    return (last, array.ndim - 1) if spec.takes(last.shape) and not spec.takes(array.shape) else (array, 1)


def _per_channel(
    numbers: tuple[float, ...], name: str, shape: tuple[int, ...], axis: int, options: Preprocess, where: str
) -> NDArray[np.float32]:
    values = np.asarray(numbers, np.float32)
    if len(numbers) == 1:
        return values
    if axis >= len(shape) or shape[axis] != len(numbers):
        have = shape[axis] if axis < len(shape) else 0
        detail = f"{name} has {len(numbers)} numbers; axis {axis} of the array {shape} has {have} channels"
        raise EspalierError("preprocess_invalid", detail, where=where, hint=_layout_hint(options))
    return values.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _layout_hint(options: Preprocess) -> str:
    if options.layout is None:
        return 'Say preprocess.layout = "NHWC" if the channels are the last axis of what you send.'
    return "Give one number, or one for each channel."
