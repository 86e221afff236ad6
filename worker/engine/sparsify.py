"""Unstructured pruning: single weights become zero, shapes stay.

In: the layers in scope, what is known of each, and the request. Out: the changed constants. The file does not shrink by
itself: the report shows nonzeros and gzip bytes beside file bytes.
"""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from schemas.criteria.weights import PatternCriterion, WeightCriterion
from schemas.request import PruneRequest
from worker.engine.axes import Layer
from worker.engine.criteria import weight_ranking
from worker.engine.criteria.layers import LayerEvidence
from worker.engine.graph import Array, Graph
from worker.engine.observe import Float
from worker.engine.patterns import Taking, mark
from worker.engine.quantised import real
from worker.engine.quantised import zero as zero_of
from worker.engine.sensitivity import Sensitivities


def sparsify(
    request: PruneRequest, graph: Graph, layers: Sequence[Layer], sensitivities: Sensitivities | None = None
) -> dict[str, Array]:
    """Weights of the layers with the lowest scores set to zero."""
    ranking = weight_ranking(request.criterion)
    by_weight = {layer.weight: layer for layer in layers}
    scores = {
        name: ranking.weight_scores(look(request.seed, graph, layer, sensitivities))
        for name, layer in by_weight.items()
    }
    marks = mark(scores, taking(request, ranking.threshold()))
    shaped = {name: from_matrix(marked, by_weight[name], graph) for name, marked in marks.items()}
    return {name: _zeroed(graph, name, marked) for name, marked in shaped.items() if marked.any()}


def taking(request: PruneRequest, threshold: float | None) -> Taking:
    """How much goes, as the request says it."""
    criterion = request.criterion
    assert isinstance(criterion, PatternCriterion), "the request's validator asks for it"
    across = criterion.across if isinstance(criterion, WeightCriterion) else "layer"
    share = request.amount.share if request.amount.kind == "remove_weights" else None
    return Taking(criterion.pattern, across, share, threshold)


def look(seed: int, graph: Graph, layer: Layer, sensitivities: Sensitivities | None) -> LayerEvidence:
    """The evidence on one layer."""
    return LayerEvidence(
        weights=to_matrix(real(graph, layer.weight), layer),
        seed=(seed, crc32(layer.weight.encode())),
        sensitivities=None if sensitivities is None else to_matrix(sensitivities(layer.weight), layer),
    )


def to_matrix(array: Float, layer: Layer) -> Float:
    """A row for each output, a column for each input."""
    return np.moveaxis(array, layer.axis, 0).reshape(array.shape[layer.axis], -1)


def from_matrix(matrix: Array, layer: Layer, graph: Graph) -> Array:
    """The way back."""
    shape = graph.constants[layer.weight].shape
    moved = (shape[layer.axis], *shape[: layer.axis], *shape[layer.axis + 1 :])
    return np.moveaxis(matrix.reshape(moved), 0, layer.axis)


def _zeroed(graph: Graph, name: str, marked: Array) -> Array:
    array = graph.constants[name]
    changed: Array = np.where(marked, zero_of(graph, name).astype(array.dtype), array)
    return changed
