"""Runs a model in onnxruntime, on the CPU: sessions, outputs for samples, latency.

In: a model as bytes or as a path (needed where it has external data), samples. Out: arrays, milliseconds. Refused: a
model that onnxruntime cannot load or run, as `model_does_not_run` with onnxruntime's own words, shortened, or as
`job_out_of_memory` where that is what they mean.
"""

import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from schemas.errors import EspalierError
from worker.engine.data import Samples
from worker.engine.memory import run_failure

Array: TypeAlias = NDArray[np.generic]
Session: TypeAlias = ort.InferenceSession

QUIET = 4  # fatal only: a warning about a user's model is not news to our stderr
CHUNK_BYTES = 1 << 24
CHUNK_ROWS = 256
MESSAGE_CHARACTERS = 300
RUN_FAILURES: tuple[type[BaseException], ...] = (
    *(kind for kind in vars(failures).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    ValueError,
    TypeError,
    RuntimeError,
)


def session(model: bytes | Path, threads: int = 1) -> Session:
    """A session on the CPU with so many threads."""
    options = ort.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except RUN_FAILURES as error:
        raise run_failure(error, f"onnxruntime does not load it: {_shorten(error)}", where="model") from None


def fixed_batch(model: Session) -> int | None:
    """The batch size that the model insists on, or None."""
    sizes = {put.shape[0] for put in model.get_inputs() if put.shape and isinstance(put.shape[0], int)}
    return next(iter(sizes)) if len(sizes) == 1 else None


def outputs(
    model: Session, samples: Samples, batch: int | None, names: Sequence[str] | None = None
) -> dict[str, Array]:
    """The outputs for all samples, rows in order. Without `names`, every output that has a row for each sample."""
    collected: dict[str, list[Array]] = {}
    for _, found in run_batches(model, samples, batch, names):
        for name, array in found.items():
            collected.setdefault(name, []).append(array)
    return {name: np.concatenate(parts) for name, parts in collected.items()}


def run_batches(
    model: Session, samples: Samples, batch: int | None, names: Sequence[str] | None = None
) -> Iterator[tuple[Samples, dict[str, Array]]]:
    """Runs the samples part by part, so that no more than one part's outputs is ever held."""
    wanted = tuple(names) if names is not None else tuple(out.name for out in model.get_outputs())
    for part in samples.batches(batch or chunk_rows(samples)):
        padded = pad(part, batch)
        found = run(model, padded, wanted)
        rows = {name: by_row(array, samples.axis(name)) for name, array in found.items()}
        follows = {name: array for name, array in rows.items() if array.ndim and len(array) == padded.count}
        if names is not None and len(follows) < len(found):
            name = next(name for name in found if name not in follows)
            detail = f"output {name!r} has shape {found[name].shape} for {padded.count} samples: no row for each"
            raise EspalierError("evaluation_invalid", detail, where="options.evaluation.output")
        yield part, {name: array[: part.count] for name, array in follows.items()}


def by_row(array: Array, axis: int | None) -> Array:
    """A view with the axis of the samples in front."""
    return np.moveaxis(array, axis, 0) if axis and axis < array.ndim else array


def run(model: Session, samples: Samples, names: Sequence[str]) -> dict[str, Array]:
    """The named outputs for these samples, in one call."""
    try:
        found = model.run(list(names), dict(samples.inputs))
    except RUN_FAILURES as error:
        raise run_failure(error, f"onnxruntime does not run it: {_shorten(error)}", where="model") from None
    return {name: np.asarray(array) for name, array in zip(names, found, strict=True)}


def chunk_rows(samples: Samples) -> int:
    """How many samples to run at once where the model leaves it open."""
    row = sum(array.nbytes for array in samples.rows(0, 1).inputs.values())
    return int(min(CHUNK_ROWS, max(1, CHUNK_BYTES // max(1, row))))


def pad(part: Samples, batch: int | None) -> Samples:
    """The rows, with the last one repeated up to the fixed batch."""
    if batch is None or part.count == batch:
        return part
    return part.take(np.minimum(np.arange(batch), part.count - 1))


def latency_ms(
    model: Session,
    sample: Samples,
    *,
    budget_seconds: float = 0.3,
    most_runs: int = 200,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The median time of one run on these samples (one, or the model's fixed batch), after a warm-up.

    The session says how many threads; the report's figure is for one.
    """
    names = [out.name for out in model.get_outputs()]
    begun = clock()
    for _ in range(3):  # onnxruntime allocates its arenas and picks kernels in the first runs
        run(model, sample, names)
        if clock() - begun > budget_seconds:
            break
    times: list[float] = []
    begun = clock()
    while not times or (len(times) < most_runs and clock() - begun < budget_seconds):
        start = clock()
        run(model, sample, names)
        times.append(clock() - start)
    return statistics.median(times) * 1000


def _shorten(error: BaseException) -> str:
    """onnxruntime's message without its source paths and return codes, on one line."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"/\S+\.(?:cc|h|cpp):\d+\s+\S+\s*", "", text)
    text = re.sub(r"Load model from \S+ failed:", "", text)
    text = " ".join(text.split())
    return text if len(text) <= MESSAGE_CHARACTERS else text[: MESSAGE_CHARACTERS - 1] + "…"
