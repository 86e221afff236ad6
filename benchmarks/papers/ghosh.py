"""Ghosh, Verifying the benefits of pruning by neuron behaviour: angles of 15 and 165 degrees, few units removed,
accuracy and confusion matrix unchanged, on a tabular 11-15-2 network, a DNN of 3 x 100 with normalisation and dropout,
and an LSTM of 2 x 256 with a fully connected layer.

In: scikit-learn's breast cancer (its first eleven features) and digits (as rows of 64 for the DNN, as eight steps of
eight for the LSTM); several trainings of each. Out: units removed and what became of accuracy and confusion, by angles
of weight rows, as the paper's code takes them, and by angles of activations.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, pstdev

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn

from benchmarks.papers.bench import OUT, Curve, Subject, keep, note, plot, spread
from benchmarks.papers.networks import CACHE_VERSION, export, fit
from schemas.report import BinaryScore, ClassificationScore

SEEDS = 5
ANGLES = (15, 20, 30, 45, 60)
QUICK = (15, 45)
HELD = 0.3  # of the samples: they judge
LOST = 0.02  # of accuracy, at 15 degrees and in the worst training: a handful of samples
PAPER = {
    "11-15-2": "2 pairs removed, 98.46 % before and after",
    "DNN 3 x 100": "4 pairs removed, 79.10 % before and after",
    "LSTM 2 x 256": "accuracy and confusion unchanged",
}


class Recurrent(nn.Module):
    """Two layers of LSTM over the rows of an image, and a layer on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 256, num_layers=2, batch_first=True)
        self.fc = nn.Linear(256, 64)
        self.out = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (samples, 8, 8) -> (samples, 10)
        steps, _ = self.lstm(x)
        return self.out(torch.relu(self.fc(steps[:, -1])))  # type: ignore[no-any-return]  # torch leaves modules untyped


def _tabular() -> nn.Module:
    return nn.Sequential(nn.Linear(11, 15), nn.ReLU(), nn.Linear(15, 2))


def _deep() -> nn.Module:
    layers: list[nn.Module] = []
    for width in (64, 100, 100):
        layers += [nn.Linear(width, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(100, 10))


@dataclass(frozen=True)
class Net:
    build: Callable[[], nn.Module]
    epochs: int
    data: Callable[[], tuple[NDArray[np.float32], NDArray[np.int64]]]


def _cells() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    found = load_breast_cancer()
    x = found.data[:, :11]
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), found.target.astype(np.int64)


def _rows() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    found = load_digits()
    return (found.data / 16).astype(np.float32), found.target.astype(np.int64)


def _steps() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x, y = _rows()
    return x.reshape(-1, 8, 8), y


NETS = {
    "11-15-2": Net(_tabular, 60, _cells),
    "DNN 3 x 100": Net(_deep, 30, _rows),
    "LSTM 2 x 256": Net(Recurrent, 20, _steps),
}


def show(quick: bool) -> bool:
    angles = QUICK if quick else ANGLES
    rows: list[Row] = []
    for number, (name, net) in enumerate(NETS.items()):
        subjects = [_subject(f"ghosh_{number}", net, seed) for seed in range(1 if quick else SEEDS)]
        print(f"\n{name}, trainings: {len(subjects)}; the paper: {PAPER[name]}")
        print(
            f"{'on':>12}  {'angles':>9}  {'units removed':>20}  {'accuracy before':>15}  {'change':>16}  {'worst':>8}"
            "  same confusion"
        )
        found = [_row(name, on, angle, subjects) for on in ("weights", "activations") for angle in angles]
        drawn = [
            Curve(
                f"angles of {on}",
                angles,
                [mean(row.after) for row in found if row.on == on],
                [pstdev(row.after) for row in found if row.on == on],
            )
            for on in ("weights", "activations")
        ]
        plot(f"ghosh_{number}", name, "angle, degrees", "accuracy", drawn)
        rows += found
    keep("ghosh", [asdict(row) for row in rows])
    print(_differences(rows))
    worst = min(min(row.changes()) for row in rows if row.angle == ANGLES[0])
    held = worst >= -LOST
    print(f"the paper's claim {'holds' if held else 'DOES NOT HOLD'} here: at 15 degrees {100 * worst:+.2f} at worst")
    return held


@dataclass(frozen=True)
class Row:
    """All trainings of a network at one angle."""

    net: str
    on: str
    angle: int
    units: int
    removed: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    same: int  # confusion matrices
    closest: float | None  # degrees between the most similar pair that went

    def changes(self) -> list[float]:
        return [after - before for before, after in zip(self.before, self.after, strict=True)]


def _row(net: str, on: str, angle: int, subjects: Sequence[Subject]) -> Row:
    reports = [subject.prune(_options(on, angle)) for subject in subjects]
    scores = [(one.before.accuracy, one.after.accuracy) for one in reports]
    pairs = [(a, b) for a, b in scores if isinstance(a, (ClassificationScore, BinaryScore)) and isinstance(b, type(a))]
    row = Row(
        net,
        on,
        angle,
        sum(group.units_before for group in reports[0].groups),
        tuple(sum(len(group.removed) for group in one.groups) for one in reports),
        tuple(a.score for a, _ in pairs),
        tuple(b.score for _, b in pairs),
        sum(a.confusion == b.confusion for a, b in pairs),
        min((pair.angle_deg for one in reports for group in one.groups for pair in group.pairs), default=None),
    )
    removed, change = f"{spread(row.removed, 1)} of {row.units}", spread([100 * one for one in row.changes()], 2)
    print(
        f"{on:>12}  {angle:>3}°/{180 - angle:>3}°  {removed:>20}  {mean(row.before):>15.4f}  {change:>13} pt"
        f"  {100 * min(row.changes()):>+5.2f} pt  {row.same} of {len(reports)}",
        flush=True,
    )
    return row


def _differences(rows: Sequence[Row]) -> str:
    closest = []
    for net in NETS:
        found = [row.closest for row in rows if row.net == net and row.on == "weights" and row.closest is not None]
        closest.append(f"{min(found):.0f} ({net})" if found else f"beyond {rows[-1].angle} ({net})")
    return note(
        f"""Where this differs: the paper's tables are not ours, so accuracies cannot be compared, only their changes.
        Its pairs at 15 degrees are not found in weight rows here: the closest rows of all trainings are
        {", ".join(closest)} degrees apart, so nothing goes and nothing changes. Activations have such pairs, and
        merging them changes little. Units that never fire are counted among those removed."""
    )


def _options(on: str, angle: int) -> dict[str, object]:
    criterion = {"name": "distinctiveness", "on": on, "angle_deg": angle, "opposite_deg": 180 - angle}
    return {"criterion": criterion, "amount": {"threshold": True}, "compensation": "merge"}


def _subject(name: str, net: Net, seed: int) -> Subject:
    """The network with this seed: from the cache, or trained now."""
    x, y = net.data()
    order = np.random.default_rng(seed).permutation(len(x))
    cut = round(HELD * len(x))
    test, train = order[:cut], order[cut:]
    path = OUT / f"{name}_{seed}_v{CACHE_VERSION}.onnx"
    if not path.exists():
        OUT.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        model = net.build()
        fit(model, x[train], y[train], torch.optim.Adam(model.parameters(), 0.003), 64, net.epochs, seed)
        export(model, x[:1], path)
    return Subject(path, {"image": x[test], "labels": y[test]}, {"image": x[train], "labels": y[train]})
