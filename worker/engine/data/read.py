"""Reads a data file as samples for the model: names, shapes, kinds of numbers, finiteness, labels.

In: a path, what the model's inputs are (`InputSpec`), `options.preprocess`, limits. Out: `Samples` in the inputs' own
types. Refused, each with its own code and the numbers: arrays that belong to no input, inputs without an array,
shapes and kinds that do not fit, NaN and infinity, files without a sample, labels that do not match.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schemas.errors import EspalierError, nearest
from schemas.request import Preprocess
from worker.engine.data.files import RawFile, read_file
from worker.engine.data.preprocess import arithmetic, arrange, chosen_inputs
from worker.engine.data.samples import InputSpec, Samples
from worker.engine.data.table import Table

Role = Literal["calibration", "evaluation"]
Array = NDArray[np.generic]
LABEL_NAMES = ("labels", "y")
FINITE_CHUNK = 1 << 22  # numbers looked at together when searching for NaN


def read_samples(
    path: Path,
    specs: Sequence[InputSpec],
    preprocess: Preprocess,
    *,
    max_bytes: int,
    role: Role,
    batch: int | None,
    axes: Mapping[str, int | None] | None = None,
) -> Samples:
    """The samples of one file. `batch` is the model's fixed batch size, where it has one; `axes` are where samples are
    counted, in outputs too."""
    _check_specs(specs, batch, role)
    chosen = chosen_inputs(preprocess, specs)
    raw = read_file(path, max_bytes=max_bytes, where=role)
    arrays, labels = named(raw, specs, role)
    inputs: dict[str, Array] = {}
    for spec in specs:
        options = preprocess if spec.name in chosen else Preprocess()
        where = f"{role}: input {spec.name!r}"
        inputs[spec.name] = _fit(arrays.pop(spec.name), spec, options, max_bytes, where)
    read = Samples(inputs, None, {**(axes or {}), **{spec.name: spec.axis for spec in specs}})
    _check_counts(read, role)
    return read if labels is None else replace(read, labels=_fit_labels(labels, read.count, role))


def _check_specs(specs: Sequence[InputSpec], batch: int | None, role: str) -> None:
    if not specs:
        raise EspalierError("data_input_unknown", "the model has no input that data could go to", where=role)
    for spec in specs:
        if spec.dtype.kind not in "fiub":
            detail = f"the model takes {spec.dtype} here; only float, integer and boolean inputs can be fed"
            raise EspalierError("data_dtype_mismatch", detail, where=f"{role}: input {spec.name!r}")
        fixed = None if spec.axis is None else spec.shape[spec.axis] if spec.shape else 1
        if fixed is not None and fixed != batch:
            detail = f"the model takes {list(spec.shape)} here, which has no axis for samples"
            hint = "Say in sample_axes which axis it is (null: none), or export the model with an open batch axis."
            raise EspalierError("data_shape_mismatch", detail, where=f"{role}: input {spec.name!r}", hint=hint)
    if all(spec.axis is None for spec in specs):
        detail = "no input of the model has an axis for samples"
        raise EspalierError("data_shape_mismatch", detail, where=role, hint="Say in sample_axes which axis it is.")


# ---- which array is which


def named(raw: RawFile, specs: Sequence[InputSpec], role: str) -> tuple[dict[str, Array], Array | None]:
    """The file's arrays under the names of the inputs, and its labels."""
    names = tuple(spec.name for spec in specs)
    if raw.kind != "npz" and len(specs) > 1:
        detail = f"a .{raw.kind} holds one array; the model has {len(specs)} inputs: {', '.join(names)}"
        raise EspalierError("data_input_missing", detail, where=role, hint="Send an .npz with one array for each.")
    if raw.table is not None:
        return {names[0]: _table_features(raw.table, specs[0], role)}, raw.table.labels
    if raw.kind == "npy":
        return {names[0]: raw.arrays[""]}, None
    arrays = dict(raw.arrays)
    marked = [name for name in LABEL_NAMES if name in arrays and name not in names]
    if len(marked) > 1:
        raise EspalierError("labels_invalid", "the file holds both `labels` and `y`; send one of them", where=role)
    labels = arrays.pop(marked[0]) if marked else None
    if len(names) == 1 and len(arrays) == 1:
        return {names[0]: next(iter(arrays.values()))}, labels
    _check_names(arrays, names, role)
    return arrays, labels


def _check_names(arrays: Mapping[str, Array], names: tuple[str, ...], role: str) -> None:
    have = ", ".join(map(repr, arrays)) or "none"
    for name in names:
        if name not in arrays:
            detail = f"the model's input {name!r} has no array; the file holds {have}"
            raise EspalierError("data_input_missing", detail, where=role)
    for name in arrays:
        if name not in names:
            known = (*names, *LABEL_NAMES)
            detail = f"array {name!r} belongs to no input of the model; {nearest(name, known)}"
            raise EspalierError("data_input_unknown", detail, where=role)


def _table_features(table: Table, spec: InputSpec, role: str) -> Array:
    where = f"{role}: input {spec.name!r}"
    if len(spec.shape) != 2:
        detail = f"a .csv holds (samples, features); the model takes {spec.wants()}"
        raise EspalierError("data_shape_mismatch", detail, where=where, hint="Send an .npz or .npy.")
    got, wanted = table.features.shape[1], spec.shape[1]
    if wanted is not None and got == wanted + 1 and table.labels is None:
        detail = f"the table has {got} columns; the model takes {wanted} features"
        hint = "If one column holds the labels, add a header line that calls it `label`."
        raise EspalierError("data_shape_mismatch", detail, where=where, hint=hint)
    return table.features


# ---- one array for one input


def _fit(array: Array, spec: InputSpec, options: Preprocess, max_bytes: int, where: str) -> Array:
    if not array.size:
        raise EspalierError("data_empty", f"the array has shape {array.shape}: it holds nothing", where=where)
    if not array.ndim and spec.shape:
        detail = f"the array is one number and the model takes {spec.wants()}"
        raise EspalierError("data_shape_mismatch", detail, where=where)
    arranged, axis = arrange(array, spec, options)
    _check_shape(array.shape, arranged.shape, spec, where)
    _check_kind(array, spec, where)
    needed = array.size * max(array.itemsize, spec.dtype.itemsize)
    if needed > max_bytes:
        detail = f"the array takes {needed:,} bytes as {spec.dtype}; the limit is {max_bytes:,}"
        raise EspalierError("data_too_large", detail, where=where)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found, and named, just below
        ready = arithmetic(arranged, axis, spec, options)
        fitted = np.asarray(ready, dtype=spec.dtype, order="C")
    _check_finite(_rows(fitted, spec.axis), _rows(arranged, spec.axis), where)
    return fitted


def _rows(array: Array, axis: int | None) -> Array:
    """A view with the samples in front; what is given once is one of them."""
    return array[None] if axis is None else np.moveaxis(array, axis, 0)


def _check_shape(sent: tuple[int, ...], arranged: tuple[int, ...], spec: InputSpec, where: str) -> None:
    if spec.takes(arranged):
        return
    moved = "" if sent == arranged else f", as {arranged} after layout,"
    detail = f"the array is {sent}{moved} and the model takes {spec.wants()}"
    hint = "Send (samples, ...) as the model takes it."
    tail = arranged[1:]
    if spec.axis != 0:
        hint = "Send it as the model takes it; where samples are counted can be said in sample_axes."
    elif len(arranged) > 2 and spec.takes((arranged[0], arranged[-1], *arranged[1:-1])):
        hint = 'The channels come last in what you sent: set preprocess.layout to "NHWC".'
    elif len(arranged) > 2 and spec.takes((arranged[0], *arranged[2:], arranged[1])):
        hint = 'The channels come first in what you sent: set preprocess.layout to "NCHW".'
    elif spec.takes((1, *arranged)):
        hint = "The axis of the samples is missing: add a leading axis, x[None]."
    elif spec.takes((arranged[0], 1, *tail)):
        hint = "The axis of the channel is missing: add it, x[:, None]."
    elif spec.takes((*arranged, 1)):
        hint = "The last axis, of length 1, is missing: add it, x[..., None]."
    elif len(spec.shape) == 2 and spec.takes((arranged[0], int(np.prod(tail)))):
        hint = "The model takes each sample flat: x.reshape(len(x), -1)."
    raise EspalierError("data_shape_mismatch", detail, where=where, hint=hint)


def _check_kind(array: Array, spec: InputSpec, where: str) -> None:
    """Integers may become floats, never the other way; numbers must fit the integers that the model takes."""
    got, want = array.dtype.kind, spec.dtype.kind
    allowed = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[want]
    if got not in allowed:
        detail = f"the array is {array.dtype} and the model takes {spec.dtype}"
        raise EspalierError("data_dtype_mismatch", detail, where=where)
    if want not in "iu" or np.can_cast(array.dtype, spec.dtype, "safe"):
        return
    low, high = int(array.min()), int(array.max())
    bounds = np.iinfo(spec.dtype.name)
    if low < bounds.min or high > bounds.max:
        detail = f"the array holds {low} to {high}; {spec.dtype} takes {bounds.min} to {bounds.max}"
        raise EspalierError("data_dtype_mismatch", detail, where=where)


def _check_finite(fitted: Array, sent: Array, where: str) -> None:
    """Names the first sample that holds NaN or infinity, and whether it was sent so."""
    if fitted.dtype.kind != "f":
        return
    step = max(1, FINITE_CHUNK // max(1, fitted[0].size))
    for start in range(0, len(fitted), step):
        good = np.isfinite(fitted[start : start + step])
        if good.all():
            continue
        at = np.argwhere(~good)[0]
        value = sent[(start + at[0], *at[1:])]
        cause = "" if not np.isfinite(value) else f", which is not finite as {fitted.dtype} after preprocess"
        detail = f"sample {start + at[0]} holds {value}{cause}"
        raise EspalierError("data_not_finite", detail, where=where)


def _check_counts(read: Samples, role: str) -> None:
    counts = {name: len(read.by_row(name)) for name in read.inputs if read.axis(name) is not None}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} {count:,}" for name, count in counts.items())
        detail = f"the inputs have different numbers of samples: {listed}"
        raise EspalierError("data_shape_mismatch", detail, where=role)


def _fit_labels(labels: Array, count: int, role: str) -> Array:
    """Labels as int64 or float64; whether they suit the output is known only to the judge."""
    where = f"{role}: labels"
    if labels.dtype.kind not in "fiub":
        raise EspalierError("labels_invalid", f"the labels are {labels.dtype}, not numbers", where=where)
    if not labels.ndim or not labels.size or len(labels) != count:
        detail = f"there are {count:,} samples and the labels have shape {labels.shape}"
        raise EspalierError("labels_invalid", detail, where=where)
    if labels.dtype.kind == "b":
        return labels
    if labels.dtype.kind != "f":
        return labels.astype(np.int64)
    if not np.isfinite(labels).all():
        at = int(np.argwhere(~np.isfinite(labels))[0][0])
        raise EspalierError("labels_invalid", f"the label of sample {at} is not a finite number", where=where)
    return labels.astype(np.float64)
