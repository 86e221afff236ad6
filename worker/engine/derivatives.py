"""Derivatives of the loss in gates: the first of many at once, the second of each.

In: a part of the graph, batches of what it is given, the gates. Out: means over the samples. Everything goes backwards
only: forwards torch has fewer operators. Refused: operators that have no derivative, or one that would be zero where
the loss does change (`gradient_unavailable`, naming the operator).
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch.func import grad, vjp, vmap

from schemas.errors import EspalierError
from worker.engine.axes import Group
from worker.engine.execute import Masks, NoTrace
from worker.engine.losses import Loss
from worker.engine.memory import is_out_of_memory, shortened
from worker.engine.observe import Float
from worker.engine.reach import Batch, Reach

Result = TypeVar("Result")
OfGate = Callable[[torch.Tensor], torch.Tensor]
# Steps have no slope: a derivative through them would be zero where the loss does change.
STEPS = frozenset({"Round", "Floor", "Ceil", "Sign", "QuantizeLinear", "DynamicQuantizeLinear"})


def slopes(loss: Loss, reach: Reach, gates: Mapping[str, torch.Tensor], batches: Iterable[Batch]) -> dict[str, Float]:
    """The gradient of the mean loss in the gates of some groups."""
    refuse_steps(reach)
    total = {name: np.zeros(len(gate)) for name, gate in gates.items()}
    count = 0
    for batch in batches:
        count += batch.count

        def of_gates(gates: Mapping[str, torch.Tensor], batch: Batch = batch) -> torch.Tensor:
            return reach.lost(loss, batch, gates).sum()

        found: Mapping[str, torch.Tensor] = _traced(partial(grad(of_gates), dict(gates)))
        for name, one in found.items():
            total[name] += one.detach().cpu().numpy().astype(np.float64)
    return {name: one / max(count, 1) for name, one in total.items()}


def outer(loss: Loss, reach: Reach, gates: Mapping[str, torch.Tensor], batches: Iterable[Batch]) -> dict[str, Float]:
    """The diagonal of J' H J: J a sample's outputs' slopes in its gates, H the loss's curvature in its outputs. Batches
    are single samples, unless each of them can have gates of its own."""
    total = {name: np.zeros(len(gate)) for name, gate in gates.items()}
    count = 0
    for batch in batches:
        count += batch.count
        masks = reach.own_masks(gates, len(batch.target))

        def said(masks: Masks, batch: Batch = batch) -> torch.Tensor:
            return reach.computed(reach.ops, batch.values, masks)

        found = _traced(partial(vjp, said, masks))
        outputs = found[0].detach()
        ways = _ways(outputs)
        curve = _curve(loss, batch.target, outputs, ways)  # (samples, outputs, outputs)
        slopes = _each(found[1], ways)
        for name in gates:
            rows = sum(
                place.by_unit(slopes[key], len(gates[name])) for key, place in reach.places if place.group == name
            )
            assert isinstance(rows, torch.Tensor), "a group's units are read"
            rows = rows.transpose(0, 1)  # (samples, outputs, units)
            total[name] += ((curve @ rows) * rows).sum(dim=(0, 1), dtype=torch.float64).cpu().numpy()
    return {name: one / max(count, 1) for name, one in total.items()}


def _ways(said: torch.Tensor) -> torch.Tensor:
    """One way for each output of a sample, the same for all samples: (outputs, *said)."""
    outputs = said[0].numel()
    return (
        torch.eye(outputs, dtype=said.dtype, device=said.device).reshape(-1, 1, *said.shape[1:]).expand(-1, *said.shape)
    )


def _curve(loss: Loss, target: torch.Tensor, said: torch.Tensor, ways: torch.Tensor) -> torch.Tensor:
    """The loss's second derivatives in the outputs of each sample: (samples, outputs, outputs)."""

    def slope(at: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = grad(lambda here: loss.each(here, target).sum())(at)
        return found

    def row(way: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = grad(lambda at: (slope(at) * way).sum())(said)
        return found

    return vmap(row)(ways).flatten(2).transpose(0, 1)


def _each(
    pull: Callable[[torch.Tensor], tuple[dict[tuple[int, int], torch.Tensor]]], ways: torch.Tensor
) -> dict[tuple[int, int], torch.Tensor]:
    """The slopes of each output in the masks, all at once where the operators allow it: (outputs, *mask)."""
    try:
        return dict(vmap(lambda way: pull(way)[0])(ways))
    except (RuntimeError, NotImplementedError):
        found = [pull(way)[0] for way in ways]
        return {key: torch.stack([one[key] for one in found]) for key in found[0]}


def exact(loss: Loss, reach: Reach, group: Group, batch: Batch, state: torch.Tensor) -> OfGate:
    """Along a direction of the gates: the loss's second derivative."""

    def along(way: torch.Tensor) -> torch.Tensor:
        def lost(step: torch.Tensor) -> torch.Tensor:
            return reach.lost(loss, batch, {group.name: state + step * way}).sum()

        curve: torch.Tensor = grad(grad(lost))(state.new_zeros(()))
        return curve

    return along


def gauss_newton(loss: Loss, reach: Reach, group: Group, batch: Batch, state: torch.Tensor) -> OfGate:
    """The same where the outputs move on straight lines: the loss's curvature along the outputs' slope."""

    def along(way: torch.Tensor) -> torch.Tensor:
        start = state.new_zeros(())
        found = vjp(lambda step: reach.said(batch, {group.name: state + step * way}), start)
        said, pull = found[0], found[1]
        # Backwards twice: `pull` is linear, and what a number of its argument is multiplied by is that output's slope.
        slope = grad(lambda push: pull(push)[0])(torch.zeros_like(said))

        def lost(step: torch.Tensor) -> torch.Tensor:
            return loss.each(said + step * slope, batch.target)[: batch.count].sum()

        curve: torch.Tensor = grad(grad(lost))(start)
        return curve

    return along


def spread(along: OfGate, ways: torch.Tensor) -> torch.Tensor:
    """One number for each direction, all at once where the operators allow it."""
    try:
        return vmap(along)(ways).detach()
    except (NoTrace, EspalierError, RuntimeError, NotImplementedError):
        return _traced(lambda: torch.stack([along(way) for way in ways]).detach())


def _traced(work: Callable[[], Result]) -> Result:
    """The work, or which operator has no derivative."""
    try:
        return work()
    except NoTrace as stop:
        raise _unavailable(stop.op.label(), "it is computed outside torch") from None
    except EspalierError as failed:
        if failed.code != "model_does_not_run":
            raise
        raise _unavailable(failed.failure.where, failed.failure.detail) from None
    except (RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise EspalierError("job_out_of_memory", f"an allocation failed: {shortened(error)}") from None
        raise _unavailable("model", shortened(error)) from None


def refuse_steps(reach: Reach) -> None:
    for op in reach.ops:
        if op.key in STEPS:
            raise _unavailable(op.label(), "its output moves in steps, so its derivative is zero where the loss moves")


def _unavailable(where: str, why: str) -> EspalierError:
    return EspalierError("gradient_unavailable", f"no derivative passes {where}: {why}", where=where)
