"""Ghosh, Verifying the benefits of pruning by neuron behaviour: angles of 15 and 165 degrees, few units removed,
accuracy and confusion matrix unchanged, on a tabular 11-15-2 network, a DNN of 3 x 100 with normalisation and dropout,
and an LSTM of 2 x 256 with a fully connected layer.

In: scikit-learn's breast cancer (its first eleven features) and digits (as rows of 64 for the DNN, as eight steps of
eight for the LSTM); several trainings of each. Out: units removed and what became of accuracy and confusion, by angles
of weight rows, as the paper's code takes them, and by angles of activations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn

from benchmarks.papers.bench import OUT, Curve, Subject, keep, note, plot
from benchmarks.papers.zheng_nets import export
from schemas.report import BinaryScore, ClassificationScore, Report

SEEDS = 5
ANGLES = (15, 20, 25, 30, 40, 50, 60)
QUICK = (15, 40)
HELD = 0.3  # of the samples: they judge
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
    "LSTM 2 x 256": Net(Recurrent, 8, _steps),
}


def show(quick: bool) -> bool:
    angles = QUICK if quick else ANGLES
    kept: list[dict[str, object]] = []
    held = True
    for number, (name, net) in enumerate(NETS.items()):
        subjects = [_subject(f"ghosh_{number}", net, seed) for seed in range(1 if quick else SEEDS)]
        print(f"\n{name}, {len(subjects)} trainings; the paper: {PAPER[name]}")
        print(
            f"{'on':>12}  {'angles':>9}  {'units removed':>21}  {'accuracy':>16}  {'worst change':>12}  same confusion"
        )
        drawn = []
        for on in ("weights", "activations"):
            line = []
            for angle in angles:
                reports = [subject.prune(_options(on, angle)) for subject in subjects]
                row = _row(reports)
                kept.append({"net": name, "on": on, "angle": angle, **row})
                line.append(row["after"])
                print(
                    f"{on:>12}  {angle:>3}°/{180 - angle:>3}°  {row['removed']:>8.1f} of {row['units']:>4} units"
                    f"  {row['before']:.4f} -> {row['after']:.4f}  {100 * row['worst']:>+9.2f} pt  "
                    f"{row['same']:.0f} of {len(reports)}",
                    flush=True,
                )
                held = held and (angle > 15 or abs(row["worst"]) <= 0.02)
            drawn.append(Curve(f"angles of {on}", angles, line))
        plot(f"ghosh_{number}", name, "angle, degrees", "accuracy", drawn)
    keep("ghosh", kept)
    print(
        note(
            """Where this differs: the paper's tables are not ours, so accuracies cannot be compared, only their
            changes. At 15 degrees weight rows are hardly ever alike, so little goes and nothing changes, as it
            says; angles of activations find more. Units that never fire are counted among those removed."""
        )
    )
    return held


def _row(reports: list[Report]) -> dict[str, float]:
    scores = [(one.before.accuracy, one.after.accuracy) for one in reports]
    pairs = [(a, b) for a, b in scores if isinstance(a, (ClassificationScore, BinaryScore)) and isinstance(b, type(a))]
    return {
        "units": sum(group.units_before for group in reports[0].groups),
        "removed": mean(sum(len(group.removed) for group in one.groups) for one in reports),
        "before": mean(a.score for a, _ in pairs),
        "after": mean(b.score for _, b in pairs),
        "worst": min(b.score - a.score for a, b in pairs),
        "same": sum(a.confusion == b.confusion for a, b in pairs),
    }


def _options(on: str, angle: int) -> dict[str, object]:
    criterion = {"name": "distinctiveness", "on": on, "angle_deg": angle, "opposite_deg": 180 - angle}
    return {"criterion": criterion, "amount": {"threshold": True}, "compensation": "merge"}


def _subject(name: str, net: Net, seed: int) -> Subject:
    """The network with this seed: from the cache, or trained now."""
    x, y = net.data()
    order = np.random.default_rng(seed).permutation(len(x))
    cut = round(HELD * len(x))
    test, train = order[:cut], order[cut:]
    path = OUT / f"{name}_{seed}.onnx"
    if not path.exists():
        OUT.mkdir(parents=True, exist_ok=True)
        export(_train(net, x[train], y[train], seed), x[:1], path)
    return Subject(path, {"image": x[test], "labels": y[test]}, {"image": x[train], "labels": y[train]})


def _train(net: Net, x: NDArray[np.float32], y: NDArray[np.int64], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = net.build().train()
    pixels, labels = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.Adam(model.parameters(), 0.003)
    for _ in range(net.epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(pixels[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
    return model.eval()
