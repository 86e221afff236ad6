"""Fathollahi, Comparing the performance of two pruning methods on Fashion-MNIST: single weights by magnitude, and whole
neurons by the L2 norm of their weights, ten shares each, on an MLP 784-1000-1000-500-200-10 without biases.

In: seeds/mlp_fashion.onnx and Fashion-MNIST. Out: both curves beside the paper's figures, and a third that the paper
does not have: neurons by `obs` with the rest fitted anew.
"""

from benchmarks.papers.bench import DATA, Curve, Subject, images, keep, note, plot

SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
QUICK = (0.2, 0.5, 0.7, 0.9)
# What the paper prints: accuracy with that share removed.
WEIGHTS = {0.5: "about .88", 0.7: ".8555", 0.9: "falls"}
NEURONS = {0.2: "near dense", 0.6: ".46", 0.9: ".10", 0.95: ".10", 0.99: ".10"}
DENSE = 0.8851
WAYS: dict[str, dict[str, object]] = {
    "weights": {"criterion": {"name": "magnitude", "of": "weights"}},
    "weights, all layers together": {"criterion": {"name": "magnitude", "of": "weights", "across": "global"}},
    "neurons": {"criterion": {"name": "magnitude"}, "compensation": "none"},
    "neurons by obs, refitted": {"criterion": {"name": "obs"}, "compensation": "reconstruct"},
}
CALIBRATION = 5000


def show(quick: bool) -> bool:
    shares = QUICK if quick else SHARES
    pixels, labels = images("fashion_mnist", "test")
    train, _ = images("fashion_mnist", "train", CALIBRATION)
    subject = Subject(DATA / "seeds/mlp_fashion.onnx", {"input": pixels, "labels": labels}, {"input": train})
    curves: dict[str, list[float]] = {}
    before = 0.0
    for name, options in WAYS.items():
        amount = "remove_weights" if name.startswith("weights") else "remove_units"
        report = subject.sweep({"base": options, "over": {f"amount.{amount}": list(shares)}})
        curves[name] = [point.score.mean if point.score else float("nan") for point in report.points]
        assert report.before.accuracy is not None
        before = report.before.accuracy.score
    print(table(shares, curves, before))
    drawn = [Curve(name, [100 * share for share in shares], ys) for name, ys in curves.items()]
    plot("fathollahi", "Fashion-MNIST, 784-1000-1000-500-200-10", "removed, per cent", "accuracy", drawn)
    keep("fathollahi", {"shares": shares, "dense": before, **curves})
    by_weight = dict(zip(shares, curves["weights, all layers together"], strict=True))
    by_neuron = dict(zip(shares, curves["neurons"], strict=True))
    return by_weight[0.5] > before - 0.01 and by_neuron[0.9] < 0.5 < by_weight[0.7]


def table(shares: tuple[float, ...], curves: dict[str, list[float]], before: float) -> str:
    lines = [
        f"dense: {before:.4f} here, {DENSE:.4f} in the paper; 10,000 test images, one training (8 epochs of Adam)",
        f"{'gone':>5}" + "".join(f"  {name:>28}" for name in curves) + "  paper: weights / neurons",
    ]
    for at, share in enumerate(shares):
        ours = "".join(f"  {ys[at]:>28.4f}" for ys in curves.values())
        lines.append(f"{share:>5.0%}{ours}  {WEIGHTS.get(share, '-')} / {NEURONS.get(share, '-')}")
    lines.append(
        note(
            """Where this differs: the paper trained another network of the same shape and does not say whether its
            shares are of each layer or of all; both are here, and its figures lie between them. What its neurons lose
            by the norm alone, obs with a refit mostly keeps."""
        )
    )
    return "\n".join(lines)
