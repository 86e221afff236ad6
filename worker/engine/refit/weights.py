"""A reading's weights as a matrix, and what a changed matrix makes of the constants behind it.

In: a graph, a reading and matrices. Out: matrices and constants at full width. The last row of the matrix belongs to
the constant feature, where the reading's tail has a constant that can take an offset.
"""

import numpy as np
import torch

from worker.engine.graph import Array, Graph
from worker.engine.observe import Float
from worker.engine.refit.lanes import root
from worker.engine.refit.readings import Reading


def matrix(graph: Graph, reading: Reading) -> torch.Tensor:
    """(blocks, features, outputs), in single precision where they are many."""
    linear, bias = reading.linear, reading.tail.bias
    precision = np.float64 if reading.lanes is None and not reading.wide else np.float32
    w = linear.matrix(torch.from_numpy(graph.constants[linear.weight].astype(precision)))
    if not bias:
        return w
    row = torch.zeros(w.shape[0], 1, w.shape[2], dtype=w.dtype)
    if bias == linear.bias:
        row += linear.bias_scale * torch.from_numpy(graph.constants[bias].astype(precision)).reshape(row.shape)
    return torch.cat([w, row], dim=1)


def judged_scale(reading: Reading, energy: float, worth: Float | None = None) -> torch.Tensor:
    """What turns a reading's outputs into what is judged, as a share of its size: (blocks, outputs). `worth`: of an
    error in each output."""
    share = reading.tail.scale / np.sqrt(max(energy, np.finfo(np.float64).tiny))
    if worth is not None:
        share = share * np.sqrt(worth.ravel())
    return torch.from_numpy(share).reshape(reading.linear.blocks, reading.linear.outputs)


def weighed(
    graph: Graph, reading: Reading, energy: float, device: str, worth: Float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of features or lanes and the scale of their outputs, so that squares are shares of what is judged."""
    w, scale = matrix(graph, reading).to(device), judged_scale(reading, energy, worth).to(device)
    if reading.lanes is None:
        return w, scale
    w = root(reading.lanes, w, scale, bool(reading.tail.bias))
    return w, torch.ones_like(w[:, 0])


def change(graph: Graph, reading: Reading, difference: torch.Tensor) -> dict[str, Array]:
    """The constants once this has been added to the matrix, and what is added to what the operator gives where it has
    no bias. What does not change keeps every bit."""
    linear, tail, found = reading.linear, reading.tail, {}
    added = linear.array(difference[:, :-1] if tail.bias else difference).cpu().numpy()
    if added.any():
        found[linear.weight] = _moved(graph.constants[linear.weight], added)
    if tail.bias and (offset := difference[:, -1].reshape(-1).cpu().numpy() * tail.scale / tail.bias_scale).any():
        none = np.zeros(linear.spread, graph.constants[linear.weight].dtype)
        bias = graph.constants.get(tail.bias, none)
        found[tail.bias] = _moved(bias, offset.reshape(bias.shape))
    return found


def _moved(array: Array, added: Float) -> Array:
    moved: Array = np.ascontiguousarray(array.astype(np.float64) + added).astype(array.dtype)
    return moved
