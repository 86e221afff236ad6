"""Fathollahi, Comparing the performance of two pruning methods on Fashion-MNIST: single weights by magnitude, and whole
neurons by the L2 norm of their weights, ten shares each, on an MLP 784-1000-1000-500-200-10 without biases.

In: Fashion-MNIST, and seeds/mlp_fashion.onnx, which is the first of several trainings. Out: both curves as means over
the trainings beside the paper's figures, and one that the paper does not have: neurons of the first by `obs` with the
rest fitted anew. The claims that must hold: half of the weights cost less than a point, and nine tenths of the neurons
cost more than 70 % of the weights.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, pstdev

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from benchmarks.folder import DATA
from benchmarks.papers.bench import Arrays, Curve, Subject, images, keep, note, plot, spread
from benchmarks.papers.networks import Recipe, adam, rows, trained

SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
QUICK = (0.2, 0.5, 0.7, 0.9)
REFITTED = (0.5, 0.7, 0.9, 0.99)
# What the paper prints: accuracy with that share removed.
WEIGHTS = {0.5: "about .88", 0.7: ".8555", 0.9: "falls"}
NEURONS = {0.2: "near dense", 0.6: ".46", 0.9: ".10", 0.95: ".10", 0.99: ".10"}
DENSE = 0.8851
EACH, TOGETHER, NORM, OBS = "weights", "weights, all layers together", "neurons", "neurons by obs, refitted"
WAYS: dict[str, dict[str, object]] = {
    EACH: {"criterion": {"name": "magnitude", "of": "weights"}},
    TOGETHER: {"criterion": {"name": "magnitude", "of": "weights", "across": "global"}},
    NORM: {"criterion": {"name": "magnitude"}, "compensation": "none"},
    OBS: {"criterion": {"name": "obs"}, "compensation": "reconstruct"},
}
CALIBRATION = 5000
FIRST = DATA / "seeds/mlp_fashion.onnx"
SEEDS = 3
RECIPE = Recipe(
    "fathollahi",
    lambda: rows(784, 1000, 1000, 500, 200, 10, between=nn.ReLU, bias=False),
    adam(0.001),
    128,
    8,
)
Curves = Mapping[str, Mapping[float, Sequence[float]]]  # of each way and share: accuracy after every training


def show(quick: bool) -> bool:
    shares = QUICK if quick else SHARES
    pixels, labels = images("fashion_mnist", "test")
    evaluation = {"input": pixels, "labels": labels}
    train, known = images("fashion_mnist", "train")
    found: dict[str, dict[float, list[float]]] = {name: {} for name in WAYS}
    dense = []
    for seed in range(1 if quick else SEEDS):
        path = trained(RECIPE, train, known, seed) if seed else FIRST
        subject = Subject(path, evaluation, {"input": train[:CALIBRATION]})
        for name, options in WAYS.items():
            if name != OBS or not seed:
                some = REFITTED if name == OBS else shares
                before, scores = _swept(subject, name, options, some)
                for share, score in zip(some, scores, strict=True):
                    found[name].setdefault(share, []).append(score)
        dense.append(before)
    print(_table(shares, found, dense))
    print(_differences(evaluation))
    drawn = [
        Curve(name, [100 * share for share in ys], [*map(mean, ys.values())], [*map(pstdev, ys.values())])
        for name, ys in found.items()
    ]
    plot("fathollahi", "Fashion-MNIST, 784-1000-1000-500-200-10", "removed, per cent", "accuracy", drawn)
    keep("fathollahi", {"dense": dense, **found})
    half, most, few = (mean(found[name][share]) for name, share in ((TOGETHER, 0.5), (TOGETHER, 0.7), (NORM, 0.9)))
    held = half > mean(dense) - 0.01 and few < 0.5 < most
    print(f"the paper's claims {'hold' if held else 'DO NOT HOLD'} here")
    return held


def _swept(
    subject: Subject, name: str, options: Mapping[str, object], shares: Sequence[float]
) -> tuple[float, list[float]]:
    """Accuracy before, and with each share removed."""
    amount = "remove_weights" if name.startswith(EACH) else "remove_units"
    report = subject.sweep({"base": options, "over": {f"amount.{amount}": list(shares)}})
    assert report.before.accuracy is not None
    return report.before.accuracy.score, [point.score.mean if point.score else float("nan") for point in report.points]


def _table(shares: Sequence[float], found: Curves, dense: Sequence[float]) -> str:
    lines = [
        f"dense: {spread(dense)} here, {DENSE:.4f} in the paper; 10,000 test images, trainings: {len(dense)}",
        f"{'gone':>5}" + "".join(f"  {name:>28}" for name in found) + "  paper: weights / neurons",
    ]
    for share in shares:
        cells = [spread(ys[share]) if share in ys else "-" for ys in found.values()]
        ours = "".join(f"  {cell:>28}" for cell in cells)
        lines.append(f"{share:>5.0%}{ours}  {WEIGHTS.get(share, '-')} / {NEURONS.get(share, '-')}")
    return "\n".join(lines)


def _differences(evaluation: Arrays) -> str:
    with_outputs = {share: _with_outputs(evaluation, share) for share in (0.6, 0.9)}
    return note(
        f"""Where this differs: the paper trained other networks of the same shape and does not say whether its shares
        of weights are of each layer or of all; both are here, and its figures lie between them. Its neurons fall
        earlier than ours, which are those of the hidden layers. Where the same share of the ten outputs is set to zero,
        too, the first training has {with_outputs[0.6]:.4f} at 60 % and {with_outputs[0.9]:.4f} at 90 %, where the
        paper has .46 and .10. What neurons lose by the norm alone, obs with a refit mostly keeps
        (the first training)."""
    )


def _with_outputs(evaluation: Arrays, share: float) -> float:
    """Accuracy of the first training with a share of each layer's neurons gone, the last one's ten outputs included."""
    proto = onnx.load(FIRST)
    [last] = [one for one in proto.graph.initializer if one.dims[-1] == 10]
    weight = numpy_helper.to_array(last).copy()
    weight[:, np.argsort(np.linalg.norm(weight, axis=0))[: round(share * 10)]] = 0
    last.CopyFrom(numpy_helper.from_array(weight, last.name))
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(proto, Path(folder) / "model.onnx")
        amount = {"remove_units": share}
        report = Subject(Path(folder) / "model.onnx", evaluation).prune({**WAYS[NORM], "amount": amount})
    assert report.after.accuracy is not None
    return report.after.accuracy.score
