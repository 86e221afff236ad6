"""Trials: what the loss becomes when units are taken away, each alone, exactly.

In: the part of the graph behind a group's readers and what they read. Out: `Trials`, in the cheapest form that holds.
In general (`Masked`) that part runs with many masks at once. Where all readers are products with a constant weight
(`RankOne`), a reader's output without unit j is `Z - a_j w_j`, and only what follows runs. Where nothing but
cross-entropy follows (`LastLayer`), with p the probabilities and t the target,

    change_j = log(sum_k p_k exp(-a_j w_jk)) + a_j sum_k t_k w_jk

whose exponentials stay the same, whatever was taken before: they are computed once. All terms of the sum are positive,
so that nothing cancels where a removal turns a sure answer round.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.func import vmap

from schemas.errors import EspalierError
from worker.engine.axes import Group
from worker.engine.execute import NoTrace
from worker.engine.losses import Loss
from worker.engine.memory import is_out_of_memory
from worker.engine.observe import Float
from worker.engine.reach import Batch, Reach
from worker.engine.ties import Consume

Units = npt.NDArray[np.int64]
CHUNK = 1 << 22  # numbers in the widest value of a batch of trials: larger ones leave the processor's cache
TABLE_BYTES = 1 << 28  # of the exponentials that the last layer keeps
STEEP = 30.0  # exp of more, times a small probability, loses what single precision holds
STEEPEST = 80.0  # exp of it is still a number, and of its negative, too
SAMPLES = 2048  # of the table at once
Losses = Callable[..., torch.Tensor]


class Trials(Protocol):
    """The mean loss with each of these units taken away, minus that without any; `closed` ones are gone in both."""

    def changes(self, units: Units, closed: Sequence[int]) -> Float: ...


def trials(loss: Loss, reach: Reach, group: Group, batches: Iterable[Batch]) -> Trials:
    """The cheapest form that holds for this group."""
    products = [Product(reach, group, consume) for consume in group.consumers if _is_product(reach, consume)]
    readers = [product.op for product in products]
    if len(readers) < len(reach.places) or any(reach.made.intersection(op.inputs) for op in readers):
        return Masked(loss, reach, group, batches)
    follows = [op for op in reach.ops if op not in readers]
    if not follows and len(products) == 1 and loss.kind == "cross_entropy" and loss.form == "logits":
        table = LastLayer(loss, reach, group, products[0], batches)
        if table.holds:
            return table
    return RankOne(loss, reach, group, products, batches)


def _is_product(reach: Reach, consume: Consume) -> bool:
    """A matrix product of what it reads, units last, with a constant matrix."""
    op, constants = consume.op, reach.executor.graph.constants
    plain = op.key == "MatMul" or (op.key == "Gemm" and not op.integer("transA", 0))
    fixed = plain and consume.slot == 0 and consume.weight and op.inputs[1] == consume.weight
    return bool(fixed) and constants[consume.weight].ndim == 2 and op in reach.ops


class Product:
    """A reader of the units, taken apart: what each unit gives to its output."""

    def __init__(self, reach: Reach, group: Group, consume: Consume) -> None:
        self.op, self.source, self.out = consume.op, consume.op.inputs[0], consume.op.outputs[0]
        device = reach.executor.device
        self.index = torch.from_numpy(group.sites[consume.read()]).to(device)  # (units, width)
        held = reach.executor.fixed[consume.weight]
        assert isinstance(held, torch.Tensor), "weights are numbers"
        weight = held.movedim(consume.weight_axis, 0) * consume.op.number("alpha", 1.0)
        self.rows = weight[torch.from_numpy(group.sites[consume.weight, consume.weight_axis]).to(device)]

    def read(self, batch: Batch) -> torch.Tensor:
        value = batch.values[self.source]
        assert isinstance(value, torch.Tensor), "products are of numbers"
        return value

    def of(self, acts: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
        """What these units give: (units, ..., outputs)."""
        acts = acts[..., self.index[units]].movedim(-2, 0)  # (units, ..., width)
        rows = self.rows[units]
        return acts @ rows.reshape(len(rows), *(1,) * (acts.ndim - 3), *rows.shape[1:])


class Masked:
    """The general form."""

    def __init__(self, loss: Loss, reach: Reach, group: Group, batches: Iterable[Batch]) -> None:
        self.loss, self.reach, self.group, self.batches = loss, reach, group, batches

    def changes(self, units: Units, closed: Sequence[int]) -> Float:
        state = self.reach.open_gates(self.group)
        state[list(closed)] = 0
        gates = state.repeat(len(units), 1)
        gates[torch.arange(len(units)), torch.from_numpy(units)] = 0
        total, count = np.zeros(len(units)), 0
        for batch in self.batches:

            def lost(gate: torch.Tensor, batch: Batch = batch) -> torch.Tensor:
                return self.reach.lost(self.loss, batch, {self.group.name: gate})

            total += _tried(lost, (gates,), lost(state), batch.widest)
            count += batch.count
        return total / max(count, 1)


class RankOne:
    """All readers are products: their outputs lose one product of a column and a row."""

    def __init__(
        self, loss: Loss, reach: Reach, group: Group, products: Sequence[Product], batches: Iterable[Batch]
    ) -> None:
        self.loss, self.reach, self.group, self.products, self.batches = loss, reach, group, products, batches
        readers = [product.op for product in products]
        self.follows = [op for op in reach.ops if op not in readers]

    def changes(self, units: Units, closed: Sequence[int]) -> Float:
        state = self.reach.open_gates(self.group)
        state[list(closed)] = 0
        masks = self.reach.masks({self.group.name: state})
        total, count = np.zeros(len(units)), 0
        for batch in self.batches:
            outs = {one.out: self.reach.computed([one.op], batch.values, masks, one.out) for one in self.products}

            def lost(*less: torch.Tensor, batch: Batch = batch, outs: dict[str, torch.Tensor] = outs) -> torch.Tensor:
                values = {name: out - one for (name, out), one in zip(outs.items(), less, strict=True)}
                said = self.reach.computed(self.follows, {**batch.values, **values}, {})
                return self.loss.each(said, batch.target)[: batch.count]

            base = lost(*(torch.zeros_like(out) for out in outs.values()))
            size = max(CHUNK // batch.widest, 1)
            for start in range(0, len(units), size):
                some = torch.from_numpy(units[start : start + size])
                less = tuple(one.of(one.read(batch), some.to(one.index.device)) for one in self.products)
                total[start : start + size] += _tried(lost, less, base, batch.widest)
            count += batch.count
        return total / max(count, 1)


class LastLayer:
    """The reader's output is what the cross-entropy takes. `holds` where the table fits and is not too steep.

    What was closed stays closed: the scores follow one removal after the other, and the table gives up its units."""

    def __init__(self, loss: Loss, reach: Reach, group: Group, product: Product, batches: Iterable[Batch]) -> None:
        self.product, self.place = product, np.arange(group.units)  # of each unit in the table
        self.units = self.place.copy()  # of the table, in order
        self.table: list[torch.Tensor] = []  # exp(-a w): (outputs, units, samples)
        self.holds = isinstance(batches, list) and loss.axis == 1
        if not self.holds:
            return
        outs = [reach.computed([product.op], batch.values, {}, product.out) for batch in batches]
        scores = torch.cat([out[: batch.count] for out, batch in zip(outs, batches, strict=True)])
        self.holds = scores.ndim == 2 and scores.numel() * group.units * 4 <= TABLE_BYTES
        if not self.holds:
            return
        self.scores = scores.T.to(torch.float64).contiguous()  # (outputs, samples)
        self.acts = torch.cat([product.read(batch)[: batch.count] for batch in batches])
        self.slope = torch.zeros(group.units, dtype=torch.float64)
        self.steepest = 0.0
        target = torch.cat([batch.target[: batch.count] for batch in batches])
        everyone = torch.arange(group.units, device=self.acts.device)
        for acts, wanted in zip(torch.split(self.acts, SAMPLES), torch.split(target, SAMPLES), strict=True):
            given = product.of(acts, everyone).permute(2, 0, 1).contiguous()  # (outputs, units, samples)
            self.steepest = max(self.steepest, float(given.abs().max()))
            self.holds = self.steepest < STEEP
            if not self.holds:
                return
            self.slope += (given * wanted.T.unsqueeze(1)).sum(dim=(0, 2), dtype=torch.float64).cpu()
            self.table.append(given.neg_().exp_())

    def changes(self, units: Units, closed: Sequence[int]) -> Float:
        for unit in set(closed).intersection(self.units.tolist()):
            self._close(unit)
        chances = torch.softmax((self.scores - self.scores.amax(dim=0)).to(torch.float32), dim=0)
        total = torch.zeros(len(self.units), dtype=torch.float64)
        for table, p in zip(self.table, torch.split(chances, SAMPLES, dim=1), strict=True):
            left = table[:, : len(self.units)]
            moved = left[0] * p[0]
            for row, chance in zip(left[1:], p[1:], strict=True):
                moved.addcmul_(row, chance)
            total += self._logs(moved).cpu()
        # In single precision probabilities add up to 1 and a trifle, whose logarithm is that trifle.
        total -= float((chances.sum(dim=0) - 1).sum(dtype=torch.float64))
        change: Float = ((total + self.slope[self.units])[self.place[units]] / len(self.acts)).numpy()
        return change

    def _logs(self, moved: torch.Tensor) -> torch.Tensor:
        """The summed logarithms of each row, of products of as many numbers as stay within single precision."""
        most = self.steepest
        while moved.shape[1] % 2 == 0 and 2 * most < STEEPEST:
            most *= 2
            half = moved.shape[1] // 2
            moved = moved[:, :half].mul_(moved[:, half:])
        return moved.log().sum(dim=1, dtype=torch.float64)

    def _close(self, unit: int) -> None:
        """The last unit of the table takes its place."""
        product = self.product
        self.scores -= product.rows[unit].T @ self.acts[:, product.index[unit]].T
        place, last = self.place[unit], len(self.units) - 1
        for table in self.table:
            table[:, place] = table[:, last]
        self.units[place] = self.units[last]
        self.place[self.units[last]] = place
        self.units = self.units[:last]


def _tried(lost: Losses, ways: tuple[torch.Tensor, ...], base: torch.Tensor, widest: int) -> Float:
    """The summed change of the loss for each way, many at once where the operators allow it."""
    size = max(CHUNK // max(widest, 1), 1)
    found = []
    for some in zip(*(torch.split(way, size) for way in ways), strict=True):
        try:
            losses = vmap(lost)(*some)
        except (NoTrace, EspalierError, RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error):
                raise
            losses = torch.stack([lost(*one) for one in zip(*some, strict=True)])
        found.append((losses - base).sum(dim=1, dtype=torch.float64).cpu().numpy())
    changes: Float = np.concatenate(found)
    return changes
