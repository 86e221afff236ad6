"""Unstructured pruning: single weights become zero, shapes stay.

In: the layers in scope, what was seen of each, and the request. Out: the changed constants, and the layers that the
criterion has no say on. The file does not shrink by itself: the report shows nonzeros and gzip bytes beside file bytes.
Refused: a request in which the criterion has a say on no layer (`criterion_not_applicable`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

from schemas.criteria.weights import PatternCriterion, WeightCriterion
from schemas.errors import EspalierError
from schemas.request import PruneRequest
from worker.engine.axes import Layer
from worker.engine.criteria import SOLVERS, WEIGHTS
from worker.engine.criteria.layers import LayerEvidence
from worker.engine.graph import Array, Graph
from worker.engine.inputs import MATRICES, MOST_COLUMNS, LayerInputs
from worker.engine.observe import Float
from worker.engine.patterns import Marks, Taking, mark
from worker.engine.quantised import is_quantised, real
from worker.engine.quantised import zero as zero_of
from worker.engine.sensitivity import Sensitivities
from worker.engine.shelf import IN_MEMORY, Shelf


@dataclass(frozen=True, eq=False)
class Clues:
    """What weights are ranked by, beside themselves."""

    sensitivities: Sensitivities | None = None
    inputs: Mapping[str, LayerInputs] = field(default_factory=dict)  # by weight


@dataclass(frozen=True, eq=False)
class Sparsified:
    """`changed` by weight, `passed` by the layer's name: why the criterion has no say."""

    changed: dict[str, Array]
    passed: dict[str, str]


def sparsify(
    request: PruneRequest, graph: Graph, layers: Sequence[Layer], clues: Clues, shelf: Shelf = IN_MEMORY
) -> Sparsified:
    """Weights of the layers set to zero; by some criteria, others changed to make up for it. They come to the shelf one
    by one."""
    passed = {layer.name: why for layer in layers if (why := _obstacle(request, graph, layer, clues))}
    if len(passed) == len(layers):
        told = "; ".join(f"{name}: {why}" for name, why in list(passed.items())[:5])
        raise EspalierError("criterion_not_applicable", told, where="/criterion")
    chosen = {layer.weight: layer for layer in layers if layer.name not in passed}
    if request.criterion.name in SOLVERS:
        return Sparsified(_solved(request, graph, chosen.values(), clues, shelf), passed)
    return Sparsified(_marked(request, graph, chosen, clues, shelf), passed)


def _obstacle(request: PruneRequest, graph: Graph, layer: Layer, clues: Clues) -> str | None:
    asked = request.criterion.reads_inputs()
    if asked is None:
        return None
    if asked == "grams" and is_quantised(graph, layer.weight):
        return "its weights are quantised, and cannot take over for others"
    if layer.weight not in clues.inputs:
        return (
            f"its inputs cannot be read off: that is done for {', '.join(MATRICES)} with a constant weight on the "
            f"right, and a Gram of at most {MOST_COLUMNS:,} inputs"
        )
    return None


def _solved(
    request: PruneRequest, graph: Graph, layers: Iterable[Layer], clues: Clues, shelf: Shelf
) -> dict[str, Array]:
    solver = SOLVERS[request.criterion.name](request.criterion)
    found = {}
    for layer in layers:
        matrix = solver.solve(_look(request.seed, graph, layer, clues), _taking(request, None))
        solved = from_matrix(matrix, layer, graph).astype(graph.constants[layer.weight].dtype)
        found[layer.weight] = shelf.keep(solved)
        del matrix, solved
        shelf.ease()  # its Gram too
    return found


def _marked(
    request: PruneRequest, graph: Graph, layers: Mapping[str, Layer], clues: Clues, shelf: Shelf
) -> dict[str, Array]:
    ranking = WEIGHTS[request.criterion.name](request.criterion)
    taking = _taking(request, ranking.threshold())

    def scores(name: str) -> Float:
        return ranking.weight_scores(_look(request.seed, graph, layers[name], clues))

    marks: dict[str, Marks] = {}
    if taking.share is not None and taking.across == "global":
        marks = mark({name: scores(name) for name in layers}, taking)
    else:
        for name in layers:
            marks |= mark({name: scores(name)}, taking)
    shaped = {name: from_matrix(marked, layers[name], graph) for name, marked in marks.items()}
    return {name: shelf.keep(_zeroed(graph, name, marked)) for name, marked in shaped.items() if marked.any()}


def _taking(request: PruneRequest, threshold: float | None) -> Taking:
    """How much goes, as the request says it."""
    criterion = request.criterion
    assert isinstance(criterion, PatternCriterion), "the request's validator asks for it"
    across = criterion.across if isinstance(criterion, WeightCriterion) else "layer"
    share = request.amount.share if request.amount.kind == "remove_weights" else None
    return Taking(criterion.pattern, across, share, threshold)


def _look(seed: int, graph: Graph, layer: Layer, clues: Clues) -> LayerEvidence:
    """The evidence on one layer."""
    sensitive = clues.sensitivities
    return LayerEvidence(
        weights=to_matrix(real(graph, layer.weight), layer),
        seed=(seed, crc32(layer.weight.encode())),
        sensitivities=None if sensitive is None else to_matrix(sensitive(layer.weight), layer),
        inputs=clues.inputs.get(layer.weight),
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
