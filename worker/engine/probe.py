"""Samples to look at the model with: real ones where there are any, else made ones.

In: the graph and the split data. Out: `Look`: samples for shapes, the proof and the latency, and what one run of the
model showed. Refused: a model whose inputs cannot be fed with arrays, and open dimensions for which none of the usual
sizes fits, so that only data can settle them.
"""

from dataclasses import dataclass

import numpy as np

from schemas.errors import EspalierError
from worker.engine.data import InputSpec, Samples, Split
from worker.engine.execute import Executor
from worker.engine.graph import Graph, Port
from worker.engine.observe import see
from worker.engine.ties import Seen

MADE_SAMPLES = 8
# Pictures, texts and sounds; several networks halve a size many times, or take windows of 2 to the power of something.
OPEN_SIZES = (64, 128, 256, 512, 32, 224, 16, 1024, 4096, 16000, 1)


@dataclass(frozen=True, eq=False)
class Look:
    """`size` was taken for open dimensions, where the samples are made."""

    samples: Samples
    seen: Seen
    size: int | None


def input_specs(graph: Graph, name: str) -> list[InputSpec]:
    """What each input wants. Inputs that are no plain arrays are refused."""
    specs = []
    for port in graph.inputs:
        if port.dtype is None or port.shape is None or port.dtype.kind not in "biuf":
            raise EspalierError(
                "model_format_unsupported",
                f"input {port.name!r} is not a numeric tensor of known rank",
                where=name,
                hint="Export the model with numeric tensor inputs.",
            )
        specs.append(InputSpec(port.name, port.dtype, port.shape, graph.sample_axes[port.name]))
    return specs


def look(executor: Executor, data: Split, seed: int) -> Look:
    """Samples to look at the model with, and what one run showed. Where only noise is at hand and dimensions are open,
    the first size for them with which the model runs."""
    graph = executor.graph
    failure = ""
    for size in OPEN_SIZES if _is_made(data) and _open_inputs(graph) else (None,):
        samples = probe_samples(graph, data, seed, size)
        try:
            return Look(samples, see(executor, samples.rows(0, graph.fixed_batch() or 1).inputs), size)
        except EspalierError as error:
            if size is None or error.code != "model_does_not_run":
                raise
            failure = failure or error.failure.detail
    raise EspalierError(
        "calibration_required",
        f"dimensions of {', '.join(_open_inputs(graph))} are open, and the model runs with none of the sizes "
        f"{', '.join(map(str, OPEN_SIZES))}; with the first: {failure}",
        where="calibration",
    )


def _is_made(data: Split) -> bool:
    return not any(samples is not None and samples.count for samples in (data.fit, data.held_back, data.evaluation))


def _open_inputs(graph: Graph) -> list[str]:
    """The inputs with open dimensions besides that of the samples."""
    return [port.name for port in graph.inputs if None in _sizes(port, graph, 1)]


def _sizes(port: Port, graph: Graph, count: int) -> list[int | None]:
    sizes = list(port.shape or ())
    axis = graph.sample_axes[port.name]
    if axis is not None:
        sizes[axis] = count
    return sizes


def probe_samples(graph: Graph, data: Split, seed: int, size: int | None) -> Samples:
    """Fitted samples first, then any others, then normal noise (zeros for integers); `size` is for what is open."""
    for samples in (data.fit, data.held_back, data.evaluation):
        if samples is not None and samples.count:
            return samples
    rng = np.random.default_rng(seed)
    count = graph.fixed_batch() or MADE_SAMPLES
    inputs = {}
    for port in graph.inputs:
        assert port.dtype is not None, "input_specs has looked"
        shape = [size or 1 if one is None else one for one in _sizes(port, graph, count)]
        noise = rng.standard_normal(shape) if port.dtype.kind == "f" else np.zeros(shape)
        inputs[port.name] = np.asarray(noise).astype(port.dtype)
    return Samples(inputs, axes=graph.sample_axes)
