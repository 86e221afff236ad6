"""The proof: the pruned file computes what the uploaded model computes with the removed units masked to zero.

In: two models that give the same tensors, and samples. Out: the largest relative difference. Also the last look at a
finished artifact, taken in a process of its own: it must pass the checker and load. Refused: `exactness_failed`,
`artifact_rejected`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from schemas.errors import EspalierError
from schemas.report import Exactness
from worker.engine.graph import Array
from worker.engine.outline import read_model
from worker.engine.shelf import Shelf
from worker.engine.storage import densely

TOLERANCE = {"float16": 1e-2}
DEFAULT_TOLERANCE = 1e-4
LARGE_FILE: int = 1 << 28  # bytes


Outputs = Sequence[Array]  # one array for each compared tensor


def compare(
    names: Sequence[str], cut: Outputs, masked: Outputs, dense: Outputs, samples: int, *, half: bool = False
) -> Exactness:
    """max|cut - masked| / max|masked| over all compared tensors, and whether the mask changed anything. `half`: the
    model computes in half precision, whatever its outputs are."""
    worst = max((relative_difference(a, b) for a, b in zip(cut, masked, strict=True)), default=0.0)
    effect = max((relative_difference(a, b) for a, b in zip(dense, masked, strict=True)), default=0.0)
    kinds = [one.dtype.name for one in cut] + ["float16"] * half
    tolerance = max((TOLERANCE.get(kind, DEFAULT_TOLERANCE) for kind in kinds), default=DEFAULT_TOLERANCE)
    return Exactness(
        max_relative_difference=worst,
        tolerance=tolerance,
        passed=bool(worst <= tolerance),
        mask_has_effect=effect > 0.0,
        samples=samples,
        outputs=tuple(names),
    )


def relative_difference(one: Array, other: Array) -> float:
    """The largest difference over the largest value. Different shapes, or one side not finite, differ infinitely."""
    if one.shape != other.shape:
        return float("inf")
    if one.dtype.kind not in "fiub" or not one.size:
        return 0.0 if np.array_equal(one, other) else float("inf")
    a, b = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return float("inf")
    difference = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    scale = float(np.abs(b[finite]).max(initial=0.0))
    return difference / scale if scale else (0.0 if difference == 0.0 else float("inf"))


def assert_finite(names: Sequence[str], dense: Outputs) -> None:
    """Numbers that are none say nothing of a difference."""
    for name, output in zip(names, dense, strict=True):
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            kind = "NaN" if np.isnan(output).any() else "infinite"
            raise EspalierError(
                "model_does_not_run",
                f"{name!r} of the uploaded model is {kind} for these samples, so that nothing can be proved of it",
                where=name,
                hint="Look for NaN and infinity among its weights, and send data as the model was trained on.",
            )


def assert_exact(proof: Exactness) -> None:
    if not proof.passed:
        raise EspalierError(
            "exactness_failed",
            f"the pruned model differs from the masked one by {proof.max_relative_difference:.2e} of its largest "
            f"output; {proof.tolerance:.0e} is allowed",
            where=", ".join(proof.outputs),
        )


def _check(path: Path, workdir: Path | None) -> None:
    """Shapes are inferred too; onnx infers none through sparse weights, so theirs are looked at densely. The checker
    takes twice a file's size: of a large one it sees all but the numbers, which it does not look at."""
    if workdir is not None and path.stat().st_size >= LARGE_FILE:
        with Shelf.inside(workdir) as shelf:
            outline = read_model(path, shelf, path.name)
            if not outline.graph.sparse_initializer:
                onnx.checker.check_model(shelf.save(outline, "checked.onnx"), full_check=True)
                return
    try:
        onnx.checker.check_model(path, full_check=True)
    except onnx.shape_inference.InferenceError:
        proto = onnx.load(path, load_external_data=False)
        if not proto.graph.sparse_initializer:
            raise
        onnx.checker.check_model(path)
        onnx.checker.check_model(densely(proto), full_check=True)


def verify_artifact(path: Path, workdir: Path | None = None, feeds: Mapping[str, Array] | None = None) -> None:
    """The finished file passes onnx's checker and loads in onnxruntime; with feeds, it runs. In a work folder a large
    one is looked at piece by piece."""
    try:
        _check(path, workdir)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        if feeds is not None:
            session.run(None, dict(feeds))
    except Exception as error:  # onnx and onnxruntime raise many types; each of them rejects the file
        raise EspalierError("artifact_rejected", " ".join(str(error).split())[:400], where=path.name) from None
