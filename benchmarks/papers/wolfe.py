"""Wolfe, Sharma and Raj, The Incredible Shrinking Neural Network: units removed by what the loss does, first by the
gradient of a gate, then with its curvature, then by trying it out; ranked once, or anew after each removal.

In: seeds/mlp100_mnist.onnx and mlp50x50_mnist.onnx, MNIST. Out: accuracy and loss against units removed, for one and
two hidden layers, three criteria and both ways of ranking. Nothing is compensated, as in the paper.
"""

from benchmarks.papers.bench import DATA, Curve, Subject, images, keep, note, plot
from schemas.sweep_report import SweepPoint

NETS = {"mlp100_mnist": "784-100-10", "mlp50x50_mnist": "784-50-50-10"}
CRITERIA = ("taylor1", "taylor2", "brute_force")
ORDERS = ("one_ranking", "rerank")
SHARES = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
QUICK = (0.3, 0.6)
CALIBRATION = 2000
RANKED = 500  # samples that the loss is taken on; curvature, found anew after each removal, is what takes the time
RANKED_QUICKLY = 100


def show(quick: bool) -> bool:
    shares = QUICK if quick else SHARES
    test, labels = images("mnist", "test")
    train, known = images("mnist", "train", CALIBRATION)
    kept = {}
    held = True
    for net, shape in NETS.items():
        subject = Subject(
            DATA / f"seeds/{net}.onnx", {"input": test, "labels": labels}, {"input": train, "labels": known}
        )
        found = _curves(subject, shares, RANKED_QUICKLY if quick else RANKED)
        print(_table(shape, shares, found))
        for what, y in (("accuracy", 0), ("loss", 1)):
            lines = [
                Curve(f"{name}, {order.replace('_', ' ')}", [100 * share for share in shares],
                      [pair[y] for pair in pairs], dashed=order == "rerank")
                for (name, order), pairs in found.items()
            ]  # fmt: skip
            plot(f"wolfe_{net}_{what}", f"MNIST, {shape}", "units removed, per cent", what, lines)
        kept[net] = {f"{name} {order}": pairs for (name, order), pairs in found.items()}
        middle = shares.index(0.6)
        exact, first = found["brute_force", "rerank"][middle], found["taylor1", "one_ranking"][middle]
        held = held and exact[1] <= first[1]
    keep("wolfe", {"shares": shares, **kept})
    print(
        note(
            f"""The paper's findings: brute force is nearest to what is possible, re-ranking helps, the second order
            is nearer to brute force than the first. Where this differs: the losses are cross-entropies here
            (the paper's are squared errors), ranked on {RANKED_QUICKLY if quick else RANKED} training images;
            the networks are other trainings."""
        )
    )
    return held


def _curves(
    subject: Subject, shares: tuple[float, ...], samples: int
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """For each criterion and way of ranking: accuracy and loss at each share."""
    found = {}
    for name in CRITERIA:
        for order in ORDERS:
            base = {"criterion": {"name": name, "order": order, "samples": samples}, "compensation": "none"}
            over = {"amount.remove_units": list(shares)}
            report = subject.sweep({"base": base, "over": over})
            found[name, order] = [_pair(point) for point in report.points]
    return found


def _pair(point: SweepPoint) -> tuple[float, float]:
    assert point.score is not None, point.failure
    assert point.loss is not None
    return point.score.mean, point.loss.mean


def _table(shape: str, shares: tuple[float, ...], found: dict[tuple[str, str], list[tuple[float, float]]]) -> str:
    heads = "".join(f"  {name + ' ' + order:>23}" for name, order in found)
    lines = ["", f"{shape}: accuracy (loss) on 10,000 test images", f"{'gone':>5}{heads}"]
    for at, share in enumerate(shares):
        cells = "".join(f"  {f'{pairs[at][0]:.4f} ({pairs[at][1]:.3f})':>23}" for pairs in found.values())
        lines.append(f"{share:>5.0%}{cells}")
    return "\n".join(lines)
