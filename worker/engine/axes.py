"""Ties become units, units become groups.

In: a graph and one real execution of it. Out: `Analysis`: the groups of units that may go, the layers, and for every
layer that stays whole the reason. A unit is free only if every operator that touches it has spoken for that axis.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from worker.engine.forks import components, first_pins, settle
from worker.engine.graph import Graph, Op
from worker.engine.ops import RULES
from worker.engine.quantised import dequantises_constant, stored
from worker.engine.ties import Axis, Consume, Points, Produce, Seen, Ties


@dataclass(frozen=True, eq=False)
class Layer:
    """An operator with a constant weight. `axis` is where the weight's units lie, `parts` indices each."""

    name: str
    op: Op
    weight: str
    axis: int
    parts: int
    aliases: tuple[str, ...]  # the names a user may call it by

    def constants(self, graph: Graph) -> tuple[str, ...]:
        return tuple(source for name in self.op.inputs if (source := stored(graph, name)))


@dataclass(frozen=True, eq=False)
class Group:
    """Units that live on the same axes. `sites[axis]` gives, for each unit, its indices there: (units, width)."""

    name: str
    units: int
    sites: Mapping[Axis, Points]
    producers: tuple[Produce, ...]
    consumers: tuple[Consume, ...]
    layers: tuple[Layer, ...]  # of the producers
    readers: tuple[str, ...]  # names of the consumers' layers

    def read_sites(self) -> tuple[Axis, ...]:
        """Where the consumers read the units: tensors and axes, each once. What takes a mean says little of them, and
        integers less than the numbers that they stand for."""
        by_weight = [one for one in self.consumers if not one.averages]
        real = [one for one in by_weight if one.zero is None]
        return tuple(dict.fromkeys(one.read() for one in real or by_weight or self.consumers))

    def lossy(self, ties: Ties) -> bool:
        """Whether an operator takes statistics over the units: then they are those of the units that stay."""
        return any((one.op.inputs[0], one.axis) in self.sites for one in ties.statistics)

    def weight_sites(self) -> tuple[Consume, ...]:
        """The consumers whose weights can take over what a removed unit gave. A shared weight is changed once; one
        that also makes the units (tied embeddings) is not changed: they would change with it."""
        made = {(one.weight, one.axis) for one in self.producers}
        found = {(one.weight, one.weight_axis): one for one in self.consumers if one.weight}
        return tuple(one for key, one in found.items() if key not in made)


@dataclass(frozen=True)
class Stay:
    """Why a layer's units stay."""

    layer: Layer
    code: str
    message: str


@dataclass(frozen=True, eq=False)
class Analysis:
    ties: Ties
    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    stays: tuple[Stay, ...]


def analyse(graph: Graph, seen: Seen, lossy: bool = False) -> Analysis:
    """The groups of a graph and the reasons for what is in none. `lossy`: statistics over units are no reason."""
    ties = tie_all(graph, seen, lossy)
    labels = components(ties)
    pins = first_pins(ties, labels)
    layers = _layers(ties)
    by_op = {layer.op.index: layer for layer in layers}
    groups, unread = _groups(ties, labels, pins, by_op)
    axes = {axis for group in groups for axis in group.sites}
    grouped = {one.op.index for one in ties.produced if (one.weight, one.axis) in axes}
    stays = []
    for layer in layers:
        if layer.op.index in grouped:
            continue
        points = ties.points((layer.weight, layer.axis))
        if not len(points):
            stays.append(Stay(layer, "single_unit", "the layer has no unit at all"))
            continue
        component = labels[points[0]]
        if pins[component] >= 0:
            pin = ties.pins[pins[component]]
            stays.append(Stay(layer, pin.code, pin.message))
        else:
            stays.append(Stay(layer, *unread.get(int(component), ("single_unit", "the layer has one unit"))))
    return Analysis(ties, layers, groups, tuple(stays))


def tie_all(graph: Graph, seen: Seen, lossy: bool = False) -> Ties:
    """Let every operator speak, then pin what it was silent about and what callers rely on."""
    ties = Ties(graph, seen, lossy)
    for op in graph.ops:
        ties.spoken.clear()
        rule = RULES.get(op.key)
        if op.outputs[0] in graph.static and not dequantises_constant(graph, op):
            silent = "computed_constant", f"{op.label()} computes a constant, which keeps its size"
        elif rule is not None and not op.captures:
            rule.tie(op, ties)
            silent = "axis_mixed", f"{op.label()} mixes or fixes this axis"
        else:
            silent = "operator_unknown", f"{op.label()} is not an operator that can be pruned through yet"
        for name in (*op.inputs, *op.outputs, *op.captures):
            for axis in range(len(seen.shapes.get(name, ()))):
                if (name, axis) not in ties.spoken:
                    ties.pin((name, axis), *silent)
    ends = (graph.inputs, "graph_input", "is an input"), (graph.outputs, "graph_output", "is an output")
    for ports, code, what in ends:
        for port in ports:
            for axis in range(len(seen.shapes.get(port.name, ()))):
                ties.pin((port.name, axis), code, f"{port.name!r} {what} of the model: callers rely on its size")
    settle(ties)
    return ties


def _layers(ties: Ties) -> tuple[Layer, ...]:
    taken: set[str] = set()
    layers = []
    first: dict[int, Produce] = {}
    for produce in ties.produced:
        first.setdefault(produce.op.index, produce)
    for produce in first.values():
        op, weight = produce.op, produce.weight
        node = op.node.name or ""
        if weight.endswith(".weight"):
            name = weight.removesuffix(".weight")
        else:
            name = "/".join(node.strip("/").split("/")[:-1]) or node.strip("/") or weight
        unique = name if name not in taken else f"{name}#{op.index}"
        taken.add(unique)
        aliases = tuple(dict.fromkeys(one for one in (unique, name, node, weight) if one))
        layers.append(Layer(unique, op, weight, produce.axis, produce.parts, aliases))
    return tuple(layers)


Blocked = dict[int, tuple[str, str]]


def _groups(ties: Ties, labels: Points, pins: Points, layers: Mapping[int, Layer]) -> tuple[tuple[Group, ...], Blocked]:
    """Free components by the axes they live on; then the components that are free but not prunable, and why."""
    groups: list[Group] = []
    blocked: Blocked = {}
    made_at = _places((one.weight, one.axis) for one in ties.produced)
    read_at = _places(one.read() for one in ties.consumed)
    taken: Counter[str] = Counter()
    for members, sites in _alike(ties, labels, pins):
        makers = (ties.produced[place] for place in sorted(_at(made_at, sites)))
        producers = tuple(one for one in makers if not one.carried)
        consumers = tuple(ties.consumed[place] for place in sorted(_at(read_at, sites)))
        if not producers:
            continue
        if not consumers:
            reason = "not_read", "no layer reads its units"
            blocked |= {int(component): reason for component in members}
            continue
        if len(members) < 2:
            continue
        made = tuple(dict.fromkeys(layers[one.op.index] for one in producers))
        taken[made[0].name] += 1
        number = taken[made[0].name]
        readers = tuple(dict.fromkeys(layers[one.op.index].name for one in consumers if one.op.index in layers))
        name = made[0].name if number == 1 else f"{made[0].name}[{number}]"
        groups.append(Group(name, len(members), sites, producers, consumers, made, readers))
    return tuple(sorted(groups, key=lambda group: group.layers[0].op.index)), blocked


def _places(axes: Iterable[Axis]) -> Mapping[Axis, list[int]]:
    """Where in the sequence each axis stands."""
    found: dict[Axis, list[int]] = {}
    for place, axis in enumerate(axes):
        found.setdefault(axis, []).append(place)
    return found


def _at(places: Mapping[Axis, list[int]], sites: Iterable[Axis]) -> Iterator[int]:
    for axis in sites:
        yield from places.get(axis, ())


def _alike(ties: Ties, labels: Points, pins: Points) -> list[tuple[Points, dict[Axis, Points]]]:
    """Free components with the same number of points on the same axes, in file order."""
    axes = list(ties.starts)
    starts = np.fromiter(ties.starts.values(), np.int64, len(axes))
    points = np.flatnonzero(pins[labels] < 0)
    if not len(points):
        return []
    order = np.argsort(labels[points], kind="stable")
    points = points[order]
    component = labels[points]
    axis = np.repeat(np.arange(len(axes)), np.diff([*starts, ties.total]))[points]
    # Points of a component stand together, the first in the file first: components in that order.
    bounds = np.flatnonzero(np.diff(component, prepend=-1))
    sizes = np.diff(bounds, append=len(points))
    in_file = np.argsort(points[bounds], kind="stable")
    words = np.random.default_rng(0).integers(1, 2**62, len(axes), dtype=np.uint64)
    signature = np.add.reduceat(words[axis], bounds)  # a sum of random words: equal axes, equal signature
    _, first, which = np.unique(signature[in_file], return_index=True, return_inverse=True)
    members = np.split(in_file[np.argsort(which, kind="stable")], np.cumsum(np.bincount(which))[:-1])
    found = []
    for kind in np.argsort(first, kind="stable"):
        own = bounds[members[kind]]
        spans = points[own[:, None] + np.arange(sizes[members[kind][0]])]  # (units, points of each)
        lanes = axis[own[0] : own[0] + spans.shape[1]]
        sites = {axes[lane]: spans[:, lanes == lane] - starts[lane] for lane in np.unique(lanes)}
        found.append((component[own], sites))
    return found
