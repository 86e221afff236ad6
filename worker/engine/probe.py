"""Samples to look at the model with: real ones where there are any, else made ones.

In: the graph and the split data. Out: `Samples` for shapes, the proof and the latency. Refused: a model whose inputs
cannot be fed with arrays, and open dimensions that only data could settle.
"""

import numpy as np

from schemas.errors import EspalierError
from worker.engine.data import InputSpec, Samples, Split
from worker.engine.graph import Graph

MADE_SAMPLES = 8


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
        specs.append(InputSpec(port.name, port.dtype, port.shape))
    return specs


def probe_samples(graph: Graph, data: Split, seed: int) -> Samples:
    """Fitted samples first, then any others, then normal noise (zeros for integers)."""
    for samples in (data.fit, data.held_back, data.evaluation):
        if samples is not None and samples.count:
            return samples
    rng = np.random.default_rng(seed)
    count = graph.fixed_batch() or MADE_SAMPLES
    inputs = {}
    for port in graph.inputs:
        assert port.shape is not None, "input_specs has looked"
        assert port.dtype is not None, "input_specs has looked"
        if any(size is None for size in port.shape[1:]):
            raise EspalierError(
                "calibration_required",
                f"input {port.name!r} has open dimensions {port.shape}, which only data can settle",
                where="calibration",
            )
        shape = [count, *(int(size) for size in port.shape[1:] if size is not None)][: len(port.shape)]
        noise = rng.standard_normal(shape) if port.dtype.kind == "f" else np.zeros(shape)
        inputs[port.name] = noise.astype(port.dtype)
    return Samples(inputs)
