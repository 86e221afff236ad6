"""Wolfe, Sharma and Raj, The Incredible Shrinking Neural Network: units removed by what the loss does, first by the
gradient of a gate, then with its curvature, then by trying it out; ranked once, or anew after each removal.

In: MNIST. Out: accuracy and loss against units removed, for one and two hidden layers of sigmoids, three criteria and
both ways of ranking, as means over several trainings; the loss as the gates of single units close. Nothing is
compensated, as in the paper. The claims that must hold, at six tenths of the units and in the mean: ranking anew loses
less than ranking once with every criterion, and brute force no more than either Taylor form.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, pstdev

import numpy as np
from torch import nn

from benchmarks.papers.bench import Curve, Subject, images, keep, note, plot, spread
from benchmarks.papers.networks import Recipe, adam, rows, trained
from schemas.sweep_report import Surface, SweepReport

NETS = {"784-100-10": (784, 100, 10), "784-50-50-10": (784, 50, 50, 10)}
CRITERIA = ("taylor1", "taylor2", "brute_force")
ORDERS = ("one_ranking", "rerank")
SHARES = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
QUICK = (0.3, 0.6)
SEEDS = 4
CALIBRATION = 2000
RANKED = 1000  # samples that the loss is taken on
RANKED_QUICKLY = 100
AT = 0.6
GATED = 3  # units whose gates close slowly
Way = tuple[str, str]  # criterion and order


@dataclass(frozen=True)
class Point:
    """One training with a share of its units gone."""

    net: str
    seed: int
    way: Way
    share: float
    accuracy: float
    loss: float


def show(quick: bool) -> bool:
    shares, samples = (QUICK, RANKED_QUICKLY) if quick else (SHARES, RANKED)
    x, y = images("mnist", "train")
    test, labels = images("mnist", "test")
    points: list[Point] = []
    held = True
    for net, widths in NETS.items():
        recipe = Recipe(f"wolfe_{net}", lambda widths=widths: rows(*widths, between=nn.Sigmoid), adam(0.002), 100, 12)
        found: list[Point] = []
        for seed in range(1 if quick else SEEDS):
            path = trained(recipe, x, y, seed)
            known = {"input": x[:CALIBRATION], "labels": y[:CALIBRATION]}
            report = _compared(Subject(path, {"input": test, "labels": labels}, known), shares, samples)
            found += _points(net, seed, report)
            if seed == 0 and report.surface:
                _draw_gates(net, report.surface)
        print(_table(net, shares, found))
        _draw(net, shares, found)
        held = _claims(net, found) and held
        points += found
    keep("wolfe", [asdict(point) for point in points])
    print(
        note(
            f"""Where this differs: the losses are cross-entropies here (the paper's are squared errors), ranked on
            {samples:,} training images, within each layer; a share is of every layer."""
        )
    )
    return held


def _compared(subject: Subject, shares: Sequence[float], samples: int) -> SweepReport:
    criteria = [{"name": name, "order": order, "samples": samples} for name in CRITERIA for order in ORDERS]
    return subject.compare(
        {
            "base": {"compensation": "none"},
            "criteria": criteria,
            "amounts": [{"remove_units": share} for share in shares],
            "baseline": False,
            "surface": {"units": GATED, "steps": 11, "removals": 2},
        }
    )


def _points(net: str, seed: int, report: SweepReport) -> list[Point]:
    found = []
    for point in report.points:
        assert point.score is not None, point.failure
        assert point.loss is not None
        criterion, share = point.options.criterion, point.options.amount.remove_units
        assert isinstance(share, float)
        way = (criterion.name, str(getattr(criterion, "order", "")))
        found.append(Point(net, seed, way, share, point.score.mean, point.loss.mean))
    return found


def _at(points: Sequence[Point], way: Way, share: float) -> list[Point]:
    return [point for point in points if (point.way, point.share) == (way, share)]


def _ways() -> list[Way]:
    return [(name, order) for name in CRITERIA for order in ORDERS]


def _table(net: str, shares: Sequence[float], points: Sequence[Point]) -> str:
    seeds = len({point.seed for point in points})
    heads = "".join(f"  {' '.join(way):>23}" for way in _ways())
    lines = [""]
    for what in ("accuracy", "loss"):
        lines += [f"{net}, trainings: {seeds}; {what} on 10,000 test images, mean and spread", f"{'gone':>5}{heads}"]
        for share in shares:
            cells = [spread([getattr(one, what) for one in _at(points, way, share)], 3) for way in _ways()]
            lines.append(f"{share:>5.0%}" + "".join(f"  {cell:>23}" for cell in cells))
    return "\n".join(lines)


def _claims(net: str, points: Sequence[Point]) -> bool:
    """The paper's, each with the figures that it stands on."""
    loss = {way: mean(point.loss for point in _at(points, way, AT)) for way in _ways()}
    exact, anew = "brute_force", "rerank"
    claims = {
        "ranking anew loses less than ranking once": all(loss[name, anew] < loss[name, ORDERS[0]] for name in CRITERIA),
        "brute force, anew, loses no more than the first order": loss[exact, anew] <= loss["taylor1", anew] * 1.05,
        "nor than the second": loss[exact, anew] <= loss["taylor2", anew] * 1.05,
    }
    for claim, holds in claims.items():
        print(f"{net}, {AT:.0%} of the units gone, mean loss: {claim}: {'holds' if holds else 'DOES NOT HOLD'}")
    return all(claims.values())


def _draw(net: str, shares: Sequence[float], points: Sequence[Point]) -> None:
    for what in ("accuracy", "loss"):
        curves = []
        for name, order in _ways():
            rows = [[getattr(one, what) for one in _at(points, (name, order), share)] for share in shares]
            label, x = f"{name}, {order.replace('_', ' ')}", [100 * share for share in shares]
            curves.append(Curve(label, x, [*map(mean, rows)], [*map(pstdev, rows)], dashed=order == "rerank"))
        plot(f"wolfe_{net}_{what}", f"MNIST, {net}", "units removed, per cent", what, curves)


def _draw_gates(net: str, surface: Surface) -> None:
    """The error surface over the gates of the units that each criterion removes first."""
    firsts: dict[tuple[str, int], list[str]] = {}
    losses = {(one.group, one.unit): [np.nan if loss is None else loss for loss in one.loss] for one in surface.units}
    for one in surface.units:
        kind = one.series.split(" with ")[0]
        known = firsts.setdefault((one.group, one.unit), [])
        if kind not in known:
            known.append(kind)
    curves = [
        Curve(f"{group} {unit}: {', '.join(firsts[group, unit])}", surface.gates, ys)
        for (group, unit), ys in losses.items()
    ]
    plot(f"wolfe_{net}_gates", f"MNIST, {net}: single gates closing", "gate, open at 1, gone at 0", "loss", curves)
