"""What training towards the uploaded model gives back, and what eight bits cost: parts of `benchmarks.accuracy`.

In: the data folder. Out: a table for each part, and the claims that were missed. Distillation gets 5,000 unlabelled
images (a SqueezeNet the 100 that it is fitted to) and at most ten minutes, on as many cores as there are; nothing ever
looks at labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy_data import chosen, material
from benchmarks.accuracy_job import job, lost, points

IMAGES = {"cifar": 5_000}
SECONDS, QUICK_SECONDS = 600.0, 20.0
QUICK_TEST = 2_000
MOST_FURTHER = 0.5


@dataclass(frozen=True)
class Taught:
    """`goal`: the most points that may be lost in the end, where there is one. `batch`: samples in a step. `round_to`:
    where much goes, many layers are left with one to five channels, which take about as long as four or eight.
    `include`: the layers that may lose units, as in `scope`. A network that is too small for what it is taught comes
    further where its residual streams stay whole (docs/decisions/0016-finishing.md)."""

    model: str
    data: str
    keep_macs: float
    goal: float | None
    batch: int = 64
    round_to: int = 1
    include: str = "*"


# The first of a block's two convolutions: what the blocks add up to keeps all its channels.
INSIDE_BLOCKS = "*/layer?.?/conv1/*"
TAUGHT = (
    Taught("resnet20_cifar10.onnx", "cifar", 0.5, 1.5, round_to=5, include=INSIDE_BLOCKS),
    Taught("resnet56_cifar10.onnx", "cifar", 0.5, 0.5),
    Taught("resnet56_cifar10.onnx", "cifar", 1 / 2.57, 1.2, round_to=4),
    Taught("squeezenet_imagenet_fp32.onnx", "imagenet", 0.7, None, batch=32),
)
# Names and scales weigh in the last file, which holds 35 kB before.
ROUNDED: tuple[tuple[str, str, dict[str, float], float], ...] = (
    ("resnet56_cifar10.onnx", "cifar", {"keep_macs": 0.5}, 0.3),
    ("resnet20_cifar10.onnx", "cifar", {"keep_macs": 0.5}, 0.3),
    ("seeds/mlp_fashion.onnx", "fashion_mnist", {"remove_units": 0.8}, 0.3),
    ("seeds/mlp100_mnist.onnx", "mnist", {"remove_units": 0.5}, 0.3),
    ("seeds/cnn_mnist.onnx", "mnist", {"remove_units": 0.5}, 0.33),
)


def distilled(folder: Path, quick: bool, work: Path, only: str = "", seconds: float | None = None) -> Iterator[str]:
    """Each row's accuracy as uploaded, as cut and refitted, and after training for `seconds`."""
    limit = seconds or (QUICK_SECONDS if quick else SECONDS)
    rows = chosen(TAUGHT[:1] if quick else TAUGHT, only)
    print(f"{'':29} {'MACs':>6} {'before':>7} {'cut':>7} {'taught':>7} {'lost':>6} {'goal':>6} epochs, error")
    for row in rows:
        given = material(folder, row.data, row.model, QUICK_TEST if quick else None, work, IMAGES.get(row.data))
        options = {
            "amount": {"keep_macs": row.keep_macs},
            "round_to": row.round_to,
            "scope": {"include": [row.include]},
            "effort": "usual" if quick else "thorough",
            "distill": {
                "seconds": limit,
                "epochs": 10_000,
                "augment": "warp",
                "batch": row.batch,
            },
        }
        report = job(folder / row.model, given, options, work).report
        cut, taught = report.steps
        goal = "" if row.goal is None else f"{row.goal:.2f}"
        print(
            f"{row.model:29} {report.after.macs / report.before.macs:6.3f} {points(report.before.accuracy):7.2f} "
            f"{points(cut.accuracy):7.2f} {points(taught.accuracy):7.2f} {lost(report):6.2f} {goal:>6} "
            f"{taught.detail} ({taught.seconds:.0f} s)",
            flush=True,
        )
        if row.goal is not None and lost(report) > row.goal and not quick:
            yield f"{row.model} at {row.keep_macs:.3g} of the MACs lost {lost(report):.2f} points, not {row.goal:g}"


def rounded(folder: Path, quick: bool, work: Path) -> Iterator[str]:
    """Each row's accuracy and file before and after rounding to eight bits."""
    print(f"{'':24} {'cut':>7} {'int8':>7} {'further':>7} {'file':>10} {'int8':>9} {'share':>6}")
    for model, data, amount, most in ROUNDED[2:] if quick else ROUNDED:
        given = material(folder, data, model, QUICK_TEST if quick else None, work)
        report = job(folder / model, given, {"amount": amount, "quantize": "int8"}, work).report
        cut, eight = report.steps
        further, share = points(cut.accuracy) - points(eight.accuracy), eight.file_bytes / cut.file_bytes
        print(
            f"{model:24} {points(cut.accuracy):7.2f} {points(eight.accuracy):7.2f} {further:7.2f} "
            f"{cut.file_bytes:10,} {eight.file_bytes:9,} {share:6.3f}",
            flush=True,
        )
        if further > MOST_FURTHER or share > most:
            yield f"{model} in eight bits: {further:.2f} points further, {share:.3f} of the file"
