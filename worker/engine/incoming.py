"""Merging the other way round (Ghosh's appendix): a removed unit's incoming weights and biases go to its partner.

In: a group and what was done with each step. Out: changed constants (full width). For ReLU units that point the same
way and are read alike the partner then does the work of both; the outgoing weights of the removed unit are dropped, as
published. Units whose incoming weights are not plain numbers (quantised) cannot take any in.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from worker.engine.axes import Group
from worker.engine.graph import Array, Graph
from worker.engine.ties import Axis, Produce

BIASES = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "LSTM": 3, "GRU": 3, "RNN": 3}  # the input slot


def can_take_in(graph: Graph, group: Group) -> bool:
    return all(graph.constants[one.weight].dtype.kind == "f" for one in group.producers)


def take_in(
    graph: Graph, group: Group, handed: Sequence[tuple[int, int]], changed: Mapping[str, Array]
) -> dict[str, Array]:
    """`handed`: a unit and its partner, in order: what a unit took in, it hands on."""
    found: dict[str, Array] = {}
    for name, axis in dict.fromkeys(_incoming(graph, group)):
        before = found.get(name, changed.get(name, graph.constants[name]))
        weight = np.moveaxis(before.astype(np.float64), axis, 0)
        index = group.sites[name, axis]
        for gone, kept in handed:
            weight[index[kept]] += weight[index[gone]]
        found[name] = np.ascontiguousarray(np.moveaxis(weight, 0, axis)).astype(before.dtype)
    return found


def _incoming(graph: Graph, group: Group) -> Iterator[Axis]:
    """Where the units' incoming weights and biases lie."""
    for produce in group.producers:
        yield produce.weight, produce.axis
        for name in _biases(graph, produce):
            yield from ((name, axis) for axis in range(graph.constants[name].ndim) if (name, axis) in group.sites)


def _biases(graph: Graph, produce: Produce) -> Iterator[str]:
    """The operator's own bias, or the constants that are added to what it gives."""
    own = produce.op.input(BIASES[produce.op.key]) if produce.op.key in BIASES else ""
    added = [op for op in graph.readers.get(produce.op.outputs[0], ()) if op.key == "Add"]
    for name in (own, *(name for op in added for name in op.inputs)):
        if name in graph.constants:
            yield name
