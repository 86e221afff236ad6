"""What share of a model is within reach, and why the rest is not.

In: a graph and its analysis. Out: refusals, and parameters counted. Refused: nothing.
"""

from collections.abc import Collection, Iterator

from schemas.inspection import Untouched
from schemas.report import Coverage, Refusal
from worker.engine import cost
from worker.engine.axes import Analysis, Layer
from worker.engine.forks import components, first_pins
from worker.engine.graph import Graph, Op

NOT_READ = "not_read", "its units are free, but no layer with constant weights reads them, or it has one unit only"


def coverage(graph: Graph, analysis: Analysis) -> Coverage:
    """A constant counts as prunable if units can go on one of its axes."""
    shapes = cost.shapes_after(analysis.ties.seen, {})
    return Coverage(
        parameters=cost.parameters(graph, shapes),
        prunable_parameters=cost.parameters(graph, shapes, _touched(graph, analysis)),
        groups=len(analysis.groups),
        units=sum(group.units for group in analysis.groups),
    )


def refusals(
    graph: Graph, analysis: Analysis, in_scope: Collection[str], opened: Collection[str] = ()
) -> Iterator[Refusal]:
    """Every layer whose units stay, and every group (by name) that the scope leaves out. `opened` are the layers whose
    units could go with `lossy`."""
    shapes = cost.shapes_after(analysis.ties.seen, {})

    def size(layer: Layer) -> int:
        return cost.parameters(graph, shapes, layer.constants(graph))

    for stay in analysis.stays:
        yield Refusal(
            where=stay.layer.name,
            reason=stay.code,
            message=stay.message,
            parameters=size(stay.layer),
            opened_by="options.lossy" if stay.layer.name in opened else None,
        )
    for group in analysis.groups:
        if group.name not in in_scope:
            total = sum(size(layer) for layer in group.layers)
            yield Refusal(where=group.name, reason="scope", message="not in scope", parameters=total)


def untouched(graph: Graph, analysis: Analysis) -> tuple[Untouched, ...]:
    """The parameters in no group, by reason, the most first."""
    ties, touched = analysis.ties, _touched(graph, analysis)
    shapes = cost.shapes_after(ties.seen, {})
    labels = components(ties)
    pins = first_pins(ties, labels)
    stays = {stay.layer.weight: (stay.code, stay.message) for stay in analysis.stays}

    def why(name: str) -> tuple[str, str]:
        if name in stays:
            return stays[name]
        for axis in range(graph.constants[name].ndim):
            points = ties.points((name, axis))
            if len(points) and pins[labels[points[0]]] >= 0:
                pin = ties.pins[pins[labels[points[0]]]]
                return pin.code, pin.message
        return NOT_READ

    found: dict[str, list[tuple[int, str]]] = {}
    for name in graph.constants:
        size = cost.parameters(graph, shapes, [name])
        if name not in touched and size:
            code, message = why(name)
            found.setdefault(code, []).append((size, f"{name}: {message}"))
    for op in graph.ops:
        for elements, _ in cost.inner_weights(op):
            found.setdefault("inside_branches", []).append((elements, inside_branches(op)))
    counted = [
        Untouched(reason=code, parameters=sum(size for size, _ in ones), constants=len(ones), example=max(ones)[1])
        for code, ones in found.items()
    ]
    return tuple(sorted(counted, key=lambda one: (-one.parameters, one.reason)))


def inside_branches(op: Op) -> str:
    """Why the weights of a subgraph stay."""
    return f"{op.label()} keeps the {cost.inner_parameters(op):,} weights inside its branches whole"


def _touched(graph: Graph, analysis: Analysis) -> set[str]:
    return {name for group in analysis.groups for name, _ in group.sites if name in graph.constants}
