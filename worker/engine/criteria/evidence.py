"""What a criterion sees of one group, and what it answers: an order in which units go.

Criteria see weights, Grams and what the loss does, never operators.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, Protocol
from zlib import crc32

import numpy as np

from worker.engine.axes import Group
from worker.engine.gates import Gates
from worker.engine.graph import Graph
from worker.engine.observe import Float, SiteGram
from worker.engine.quantised import real
from worker.engine.refit.eliminate import order
from worker.engine.refit.teacher import RecurrentSight, Sight

ROWS = 256  # of a wide square at once
Centre = Literal["auto", "half", "mean", "none"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """One group. Incoming weights are gathered, and gates opened, only for criteria that look at them."""

    units: int
    gather_rows: Callable[[], Float]
    sites: tuple[SiteGram, ...]
    seed: tuple[int, ...] = (0,)
    gather_scales: Callable[[], Float] | None = None
    open_gates: Callable[[], Gates] | None = None
    gather_sensitivities: Callable[[], Float] | None = None
    sights: tuple[Sight | RecurrentSight, ...] = ()

    @property
    def rows(self) -> Float:
        """The incoming weights of the units, side by side over the producers: (units, fan-in). Gathered anew each time:
        those of all groups are twice the model."""
        return self.gather_rows()

    @cached_property
    def scales(self) -> Float:
        """The scales of the batch normalisations behind the units, side by side: (units, places)."""
        return np.zeros((self.units, 0)) if self.gather_scales is None else self.gather_scales()

    @cached_property
    def sensitivities(self) -> Float:
        """Karnin's sensitivities of the incoming weights: (units, fan-in)."""
        assert self.gather_sensitivities is not None, "the request's history was read"
        return self.gather_sensitivities()

    @cached_property
    def eliminated(self) -> list[tuple[int, float]]:
        """All units but one, in the order in which their readers miss them least, and what each costs."""
        return order([sight.reader() for sight in self.sights], self.units, self.units - 1)

    def generator(self) -> np.random.Generator:
        """The same numbers at every call, others in every group."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True)
class Step:
    """One unit goes. `partner` stands in for it (similar), goes with it (opposite), or is None.

    `score` is what the criterion gave the unit when it was its turn; where the criterion's scores are comparable across
    groups it is what taking this step costs."""

    unit: int
    why: Literal["dead", "similar", "opposite", "small"]
    partner: int | None = None
    angle_deg: float | None = None
    score: float | None = None


class Criterion(Protocol):
    """A ranking criterion of units, with its parameters inside."""

    def by_threshold(self, evidence: Evidence) -> tuple[Step, ...]:
        """What the criterion's own threshold removes, in order."""
        ...

    def in_order(self, evidence: Evidence) -> tuple[Step, ...]:
        """All units but one, the first to go first."""
        ...


def gather(
    graph: Graph,
    group: Group,
    sites: tuple[SiteGram, ...],
    seed: int = 0,
    open_gates: Callable[[], Gates] | None = None,
    sensitivities: Callable[[str], Float] | None = None,
    sights: tuple[Sight | RecurrentSight, ...] = (),
) -> Evidence:
    """The evidence on one group: its producers' weights, the Grams that were observed, its gates, how sensitive weights
    are, and what its readers see."""

    def rows() -> Float:
        return incoming(group, partial(real, graph))

    def scales() -> Float:
        names = [op.inputs[1] for op in graph.ops if op.key == "BatchNormalization"]
        known = {name: group.sites[name, 0] for name in names if name in graph.constants and (name, 0) in group.sites}
        parts = [graph.constants[name].astype(np.float64)[index] for name, index in known.items()]
        return np.concatenate([np.zeros((group.units, 0)), *parts], axis=1)

    seeds = (seed, crc32(group.name.encode()))
    sensitive = None if sensitivities is None else partial(incoming, group, sensitivities)
    return Evidence(group.units, rows, sites, seeds, scales, open_gates, sensitive, sights)


def incoming(group: Group, of: Callable[[str], Float]) -> Float:
    """Something said of each weight, of the incoming weights of the units, over all producers: (units, fan-in)."""
    parts = []
    for produce in group.producers:
        index = group.sites[produce.weight, produce.axis]
        weight = np.moveaxis(of(produce.weight), produce.axis, 0)
        parts.append(weight[index].reshape(group.units, -1))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def centres(site: SiteGram, how: Centre) -> Float:
    """What is subtracted from each unit's values at a site."""
    if how == "mean":
        return site.sums / max(site.rows, 1)
    half = site.middle is not None and how in ("auto", "half")
    return np.full(len(site.sums), site.middle if half else 0.0)


def centred(site: SiteGram, how: Centre) -> Float:
    """The Gram of centred activations, from the raw one, which it may be: sum (a - c)(a - c)^T."""
    c = centres(site, how)
    if not c.any():
        return site.gram
    gram: Float = site.gram.copy()
    rest = site.sums - c * (site.rows / 2)
    for rows in _some(len(gram)):
        gram[rows] -= np.outer(c[rows], rest)
        gram[rows] -= np.outer(rest[rows], c)
    return gram


def together(sites: Sequence[SiteGram], how: Centre) -> Float:
    """The centred Gram over all the sites of a group."""
    first, *others = (centred(site, how) for site in sites)
    return first if not others else np.sum([first, *others], axis=0)


def _some(count: int) -> Iterator[slice]:
    """Parts of the rows of a wide square, so that what is computed of them stays small beside it."""
    return (slice(start, start + ROWS) for start in range(0, count, ROWS))


def angles_deg(gram: Float) -> Float:
    """Angles between vectors whose Gram is given. A vector of length zero is at 90 degrees to all others."""
    lengths = np.sqrt(np.clip(np.diag(gram), 0, None))
    angles: Float = np.zeros_like(gram)
    for rows in _some(len(gram)):
        scale = np.outer(lengths[rows], lengths)
        np.divide(gram[rows], scale, out=angles[rows], where=scale > 0)
        np.clip(angles[rows], -1.0, 1.0, out=angles[rows])
        np.degrees(np.arccos(angles[rows]), out=angles[rows])
    np.fill_diagonal(angles, 0.0)
    return angles
