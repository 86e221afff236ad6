"""`compensation: reconstruct`: the whole walk, from what goes to the weights that are left; and the same walk for
weights that were worked out beforehand.

In: the graph, the groups, the samples, and the steps that the criterion took. Out: `Rebuilt`: changed constants at full
width, the steps as they were finally taken, what became of every reading, and what reads removed units and is none.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from math import ceil

import torch

from worker.engine import surgery
from worker.engine.axes import Group
from worker.engine.criteria.evidence import Step
from worker.engine.execute import Executor
from worker.engine.graph import Array, Graph, Op
from worker.engine.refit.consumers import Consumer, consumer_of
from worker.engine.refit.forming import forming
from worker.engine.refit.judging import Judging, movable
from worker.engine.refit.readings import Reading
from worker.engine.refit.room import rooms
from worker.engine.refit.sides import Batches, Sides, Trail
from worker.engine.refit.walk import Plan, Refit, Refitting
from worker.engine.shelf import IN_MEMORY, Shelf
from worker.engine.ties import Ties


@dataclass(frozen=True, eq=False)
class Unfitted:
    """An operator that reads removed units, and why it is no reading."""

    op: Op
    reason: str


@dataclass(frozen=True, eq=False)
class Rebuilt:
    changed: Mapping[str, Array]
    taken: Mapping[str, tuple[Step, ...]]
    refits: tuple[Refit, ...]
    unfitted: tuple[Unfitted, ...]


@dataclass(frozen=True, eq=False)
class Material:
    """The samples to walk with, in batches. Without any held back, what was fitted is judged on itself. `scores`: the
    values that are known to hold a row of scores for each sample, of which the largest says its class."""

    fit: Batches
    held: Batches
    device: str
    seed: int
    samples: int  # of both together
    shelf: Shelf = IN_MEMORY
    scores: Set[str] = frozenset()
    thorough: bool = False  # descents of more steps


def reconstruct(
    ties: Ties,
    groups: Sequence[Group],
    readings: Sequence[Consumer],
    material: Material,
    taken: Mapping[str, tuple[Step, ...]],
    chosen_on_the_way: bool,
) -> Rebuilt:
    """Walk once. `chosen_on_the_way`: of groups that one reading alone reads, only the number of steps counts."""
    graph = ties.graph
    plan = _plan(groups, readings, taken, chosen_on_the_way)
    lost = {name for name, steps in taken.items() if steps}
    active = _active(graph, [group for group in groups if group.name in lost], readings)
    known = {group.name: group for group in groups}
    read = [one for one in active if isinstance(one, Reading)]
    found = [chain for one in read if (chain := forming(graph, one, known)) is not None]
    chains = [chain for chain in found if lost & {*chain.groups}]
    teacher, student = Executor(graph, material.device), Executor(graph, material.device)
    own = {(one.op.index, slot) for one in readings for slot in one.slots}
    masks = {key: mask for key, mask in _masks(ties, groups, plan, material.device).items() if key not in own}
    first = (*(one.op.index for one in active), *(chain.ops[0].index for chain in chains))
    parting = min((*first, *(index for index, _ in masks)), default=0)

    def sides(batches: Batches) -> Sides:
        return Sides(Trail(teacher, ()), Trail(student, (), masks=masks), list(batches), parting)

    refitting = Refitting(
        graph, groups, student, sides(material.fit), sides(material.held or material.fit), plan,
        torch.Generator().manual_seed(material.seed), material.shelf,
        {chain.reading.op.index: chain for chain in chains}, material.scores, material.thorough,
    )  # fmt: skip
    shares = [min(1.0, room / material.samples) for room in rooms(graph, ties.seen, active)]
    refits = tuple(refitting.step(active[place:], shares[place]) for place in range(len(active)))
    final = {name: _steps(steps, plan, name) for name, steps in taken.items()}
    return Rebuilt(refitting.changed, final, refits, tuple(_unfitted(ties, groups, lost)))


def judged(
    ties: Ties,
    groups: Sequence[Group],
    readings: Sequence[Consumer],
    material: Material,
    taken: Mapping[str, tuple[Step, ...]],
    proposals: Mapping[str, Array],
    *,
    veto: bool,
) -> Rebuilt:
    """Walk once with weights that were worked out beforehand. With `veto` each consumer keeps them only where they make
    its error on held-back samples smaller; what cannot be judged is kept."""
    graph = ties.graph
    plan = _plan(groups, readings, taken, on_the_way=False)
    lost = {name for name, steps in taken.items() if steps}
    active = _active(graph, [group for group in groups if group.name in lost], readings)
    teacher, student = Executor(graph, material.device), Executor(graph, material.device)
    masks = _masks(ties, groups, plan, material.device)
    batches = material.held or material.fit
    keep = [name for one in active for name in one.taught]
    share = min(1.0, min(rooms(graph, ties.seen, active), default=1) / material.samples)
    batches = batches[: max(ceil(share * len(batches)), 1)]
    held = Sides(Trail(teacher, batches, keep), Trail(student, batches, masks=masks))
    known = {name for one in active for name in movable(one)}
    kept = {name: array for name, array in proposals.items() if name not in known}
    for name, array in kept.items():
        student.replace(name, array)
    generator = torch.Generator().manual_seed(material.seed)
    judging = Judging(graph, groups, student, held, plan, proposals, veto, generator, kept)
    refits = []
    for reading in active:
        refits.append(judging.step(reading))
        material.shelf.ease()
    return Rebuilt(judging.changed, taken, tuple(refits), tuple(_unfitted(ties, groups, lost)))


def _masks(ties: Ties, groups: Sequence[Group], plan: Plan, device: str) -> dict[tuple[int, int], torch.Tensor]:
    return {key: torch.from_numpy(mask).to(device) for key, mask in surgery.masks(ties, groups, plan.gone).items()}


def _unfitted(ties: Ties, groups: Sequence[Group], lost: Set[str]) -> Iterator[Unfitted]:
    reads = {consume.op.index for group in groups if group.name in lost for consume in group.consumers}
    for op in ties.graph.ops:
        if op.index in reads and isinstance(reason := consumer_of(ties.graph, ties.seen, op, groups), str):
            yield Unfitted(op, reason)


def _plan(
    groups: Iterable[Group], readings: Iterable[Consumer], taken: Mapping[str, tuple[Step, ...]], on_the_way: bool
) -> Plan:
    plan = Plan({})
    fitted = {name for one in readings if isinstance(one, Reading) and not one.wide for name in one.units}
    for group in groups:
        steps = taken.get(group.name, ())
        if on_the_way and steps and len(group.consumers) == 1 and group.name in fitted:
            plan.open[group.name] = len(steps)
        else:
            plan.gone[group.name] = tuple(sorted(step.unit for step in steps))
    return plan


def _steps(steps: tuple[Step, ...], plan: Plan, name: str) -> tuple[Step, ...]:
    if name not in plan.ranked:
        return steps
    return tuple(Step(unit, "small", score=cost) for unit, cost in plan.ranked[name])


def _active(graph: Graph, losing: Sequence[Group], readings: Sequence[Consumer]) -> list[Consumer]:
    """The readings that read something removed, or something that is no longer what it was."""
    names = {group.name for group in losing}
    changed = {consume.op.index for group in losing for consume in group.consumers}
    touched: set[str] = set()
    found = []
    by_op = {reading.op.index: reading for reading in readings}
    for op in graph.ops:
        stale = any(name in touched for name in (*op.inputs, *op.captures))
        reading = by_op.get(op.index)
        if reading is not None and (reading.source in touched or reading.units.keys() & names):
            found.append(reading)
        if stale or op.index in changed:
            touched.update(name for name in op.outputs if name)
    return found
