"""Unstructured pruning: single weights become zero, shapes stay.

In: the layers in scope and the share or threshold. Out: the changed constants. The file does not shrink by itself:
the report shows nonzeros and gzip bytes beside file bytes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from schemas.criteria import Magnitude
from schemas.request import PruneRequest
from worker.engine.axes import Layer
from worker.engine.graph import Array, Graph
from worker.engine.quantised import real
from worker.engine.quantised import zero as zero_of


def sparsify(request: PruneRequest, graph: Graph, layers: Sequence[Layer]) -> dict[str, Array]:
    """Weights of the layers with the smallest absolute values set to zero."""
    parameters = request.criterion
    assert isinstance(parameters, Magnitude), "the request's validator asks for it"
    names = tuple(dict.fromkeys(layer.weight for layer in layers))
    sizes = {name: np.abs(real(graph, name)).ravel() for name in names}
    if request.amount.kind == "threshold":
        assert parameters.threshold is not None
        zero = {name: size < parameters.threshold for name, size in sizes.items()}
    elif parameters.across == "layer":
        zero = {name: _smallest(size, request.amount.share) for name, size in sizes.items()}
    else:
        together = _smallest(np.concatenate([sizes[name] for name in names]), request.amount.share)
        ends = np.cumsum([len(sizes[name]) for name in names])
        zero = dict(zip(names, np.split(together, ends[:-1]), strict=True))
    return {name: _zeroed(graph, name, zero[name]) for name in names if zero[name].any()}


def _smallest(sizes: "np.typing.NDArray[np.float64]", share: float) -> "np.typing.NDArray[np.bool_]":
    """Mark exactly that share, the smallest first; equal ones in file order."""
    count = round(share * len(sizes))
    marked = np.zeros(len(sizes), dtype=bool)
    if count:
        limit = np.partition(sizes, count - 1)[count - 1]
        marked[sizes < limit] = True
        marked[np.flatnonzero(sizes == limit)[: count - marked.sum()]] = True
    return marked


def _zeroed(graph: Graph, name: str, marked: "np.typing.NDArray[np.bool_]") -> Array:
    array = graph.constants[name]
    changed: Array = np.where(marked.reshape(array.shape), zero_of(graph, name).astype(array.dtype), array)
    return changed


def nonzero(constants: Mapping[str, Array], names: Sequence[str]) -> int:
    """Elements that are not zero."""
    return sum(int(np.count_nonzero(constants[name])) for name in names)
