"""What becomes of the outgoing weights of a removed unit: dropped, merged into its partner, or projected onto it.

In: the steps taken in each group and its evidence. Out: the changed constants (full width: nothing is cut here) and
what was done with each step. `merge` adds them (Gedeon); `project` adds them times `G_ij / G_ii`, with the bias
adjusted where the Gram is centred (what of it is kept, `refit.judging` tells); `merge_incoming` adds incoming weights
instead (see `incoming`). Dead units and opposite pairs hand nothing on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from worker.engine.axes import Group
from worker.engine.criteria.evidence import Centre, Evidence, Step, angles_deg, centred, centres, together
from worker.engine.graph import Array, Graph
from worker.engine.incoming import can_take_in, take_in
from worker.engine.observe import Float, SiteGram
from worker.engine.shelf import IN_MEMORY, Shelf
from worker.engine.ties import Consume

Method = Literal["none", "merge", "merge_incoming", "project"]


@dataclass(frozen=True)
class Done:
    """A step and where its weights went."""

    step: Step
    partner: int | None
    angle_deg: float | None
    action: Literal["merged", "projected", "refitted", "dropped", "cancelled"]


def refitted(steps: Sequence[Step]) -> tuple[Done, ...]:
    """Steps whose weights all that stays has taken over together."""
    return tuple(
        Done(step, step.partner, step.angle_deg, "dropped" if step.why == "dead" else "refitted") for step in steps
    )


def dropped_where_nothing_took_over(
    groups: Iterable[Group], done: Mapping[str, tuple[Done, ...]], changed: Mapping[str, Array]
) -> dict[str, tuple[Done, ...]]:
    """What was done once some consumers have kept the weights that they had."""
    found = dict(done)
    for group in groups:
        if not any(one.weight in changed for one in group.weight_sites()):
            found[group.name] = tuple(
                replace(one, action="dropped") if one.action == "projected" else one for one in done[group.name]
            )
    return found


def compensate(
    method: Method,
    centre: Centre,
    graph: Graph,
    groups: Sequence[Group],
    taken: Mapping[str, tuple[Step, ...]],
    evidence: Mapping[str, Evidence],
    shelf: Shelf = IN_MEMORY,
) -> tuple[dict[str, Array], dict[str, tuple[Done, ...]]]:
    """Constants that change, on the shelf, and for each group what was done."""
    changed: dict[str, Array] = {}
    record: dict[str, tuple[Done, ...]] = {}
    for group in groups:
        possible = can_take_in(graph, group) if method == "merge_incoming" else group.weight_sites()
        how: Method = method if possible else "none"  # nowhere to write to
        done = tuple(_resolve(how, centre, taken[group.name], evidence[group.name]))
        record[group.name] = done
        shelf.ease()
        if not any(one.action in ("merged", "projected") for one in done):
            continue
        if method == "merge_incoming":
            handed = [
                (one.step.unit, one.partner) for one in done if one.action == "merged" and one.partner is not None
            ]
            taken_in = take_in(graph, group, handed, changed)
            changed |= {name: shelf.keep(array) for name, array in taken_in.items()}
            continue
        for consume in group.weight_sites():
            moved = _hand_over(method, centre, graph, group, consume, done, evidence[group.name].sites, changed)
            changed |= {name: shelf.keep(array) for name, array in moved.items()}
            shelf.ease()
    return changed, record


def _resolve(method: Method, centre: Centre, steps: Sequence[Step], evidence: Evidence) -> Iterator[Done]:
    """Where each removed unit's weights go. A step without a partner goes to the closest unit that stays."""
    closest = None
    if method != "none" and any(step.why == "small" for step in steps):
        angles = angles_deg(together(evidence.sites, centre))
        angles[:, [step.unit for step in steps]] = np.inf
        closest = angles
    action: Literal["merged", "projected"] = "projected" if method == "project" else "merged"
    for step in steps:
        if step.why == "opposite":
            yield Done(step, step.partner, step.angle_deg, "cancelled")
        elif method == "none" or step.why == "dead":
            yield Done(step, step.partner, step.angle_deg, "dropped")
        elif step.partner is not None:
            yield Done(step, step.partner, step.angle_deg, action)
        else:
            assert closest is not None
            partner = int(closest[step.unit].argmin())
            yield Done(step, partner, float(closest[step.unit, partner]), action)


def _hand_over(
    method: Method,
    centre: Centre,
    graph: Graph,
    group: Group,
    consume: Consume,
    done: Sequence[Done],
    sites: Sequence[SiteGram],
    changed: Mapping[str, Array],
) -> dict[str, Array]:
    """Add the weights of removed units to their partners', step by step: what a unit received, it hands on."""
    original = graph.constants[consume.weight]
    weight = np.moveaxis(changed.get(consume.weight, original).astype(np.float64), consume.weight_axis, 0)
    index = group.sites[consume.weight, consume.weight_axis]
    site = next((one for one in sites if one.tensor == consume.read()[0]), None)
    bias = _bias(graph, consume) if method == "project" and site is not None else ""
    shift = centres(site, centre) if bias and site is not None else None
    gram = None if site is None else centred(site, centre) if shift is not None else site.gram
    offset = np.zeros(graph.constants[bias].shape) if bias else None
    for one in done:
        if one.action not in ("merged", "projected") or one.partner is None:
            continue
        gone, kept = index[one.step.unit], index[one.partner]
        factor = 1.0
        if one.action == "projected" and gram is not None:
            norm = gram[one.partner, one.partner]
            factor = float(gram[one.partner, one.step.unit] / norm) if norm > 0 else 0.0
        if offset is not None and shift is not None:
            constant = float(shift[one.step.unit] - factor * shift[one.partner])
            offset += constant * _per_output(weight[gone], consume)
        weight[kept] += factor * weight[gone]
        weight[gone] = 0.0
    moved: dict[str, Array] = {}
    moved[consume.weight] = np.moveaxis(weight, 0, consume.weight_axis).astype(original.dtype, order="C")
    if offset is not None:
        old = changed.get(bias, graph.constants[bias])
        moved[bias] = (old.astype(np.float64) + offset).astype(old.dtype)
    return moved


def _bias(graph: Graph, consume: Consume) -> str:
    """The consumer's own bias, where there is one that simply adds."""
    op = consume.op
    name = op.input(2) if op.key in ("Conv", "Gemm") else ""
    plain = op.number("alpha", 1.0) == 1.0 and op.number("beta", 1.0) == 1.0
    padded = any(op.ints("pads")) or op.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    outputs = graph.constants[consume.weight].shape[0 if op.key == "Conv" else 1 - consume.weight_axis]
    each = name in graph.constants and graph.constants[name].shape == (outputs,)
    return name if each and plain and not padded else ""


def _per_output(weight: Float, consume: Consume) -> Float:
    """Sum of a unit's outgoing weights for each output. In a convolution the outputs come first, then the taps."""
    summed: Float = weight.sum(axis=0)
    taps: Float = summed.reshape(len(summed), -1).sum(axis=1)
    return taps if consume.op.key == "Conv" else summed
