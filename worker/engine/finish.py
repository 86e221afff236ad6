"""What may follow the cut: the pruned model is trained towards the uploaded one, then rounded to eight bits.

In: the subject, its cut and proved model, the samples. Out: the finished work, and a file of the model as it stood
after each step. Refused: steps without samples to work with (`data_empty`), and what training and rounding refuse.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir

from schemas.errors import EspalierError
from schemas.files import is_weights
from schemas.finishing import Distill, Quantize
from worker.engine import surgery, written
from worker.engine.data import Samples, Split
from worker.engine.distill import Distilled, distill
from worker.engine.graph import freeze
from worker.engine.quantize import quantize
from worker.engine.stages import Made, Stages, Subject, Work

PRUNED, DISTILLED, QUANTIZED = "pruned.onnx", "distilled.onnx", "quantized.onnx"
MOST_HELD = 500  # samples: two states that differ by less than these can tell are as good as each other
FLOAT = "float.onnx"  # where the artifact is in eight bits: the model before that


def finish(
    subject: Subject, work: Work, data: Split, stage: Stages, clock: Callable[[], float] = time.perf_counter
) -> Work:
    """Each step that the request asks for, in order."""
    request = subject.request
    if request.distill is None and request.quantize is None:
        return work
    how = "weights set to zero" if request.criterion.prunes_weights() else "units removed, their weights handed over"
    cut = Made("pruned", work.artifact, work.weights, 0.0, how)
    work = replace(work, made=(cut,))
    with stage("finish", "finishing the pruned model"):
        if request.distill is not None:
            work = _distilled(subject, work, request.distill, _fit(data), data.held_back, stage, clock)
        if request.quantize is not None:
            work = _quantized(subject, work, request.quantize, _fit(data), clock)
    return work


def _fit(data: Split) -> Samples:
    if data.fit is None:
        raise EspalierError("data_empty", "there is no calibration sample to finish with", where="calibration")
    return data.fit


def _distilled(
    subject: Subject,
    work: Work,
    options: Distill,
    fit: Samples,
    held: Samples | None,
    stage: Stages,
    clock: Callable[[], float],
) -> Work:
    start = clock()
    fit, kept = shared_out(fit, held)
    sparse = subject.request.criterion.prunes_weights()
    found = distill(
        subject.graph, freeze(work.model), surgery.indices_gone(subject.groups, work.gone), fit, kept, options,
        seed=subject.request.seed, device=subject.device, keep_zeros=sparse, tell=stage.within,
        shelf=subject.loaded.shelf, clock=clock,
    )  # fmt: skip
    model = surgery.with_constants(work.model, found.changed, subject.loaded.shelf)
    path, weights = write_model(model, subject, DISTILLED)
    made = Made("distilled", path, weights, clock() - start, _said(found, held is not None))
    return replace(work, model=model, artifact=path, weights=weights, made=(*work.made, made))


def shared_out(fit: Samples, held: Samples | None) -> tuple[Samples, Samples]:
    """Samples to train on, and those that say which state was best: of those held back only as many as that takes."""
    if held is None:
        return fit, fit
    if held.count <= MOST_HELD:
        return fit, held
    return fit.followed_by(held.rows(MOST_HELD, held.count)), held.rows(0, MOST_HELD)


def _said(found: Distilled, held: bool) -> str:
    samples = "samples held back" if held else "the samples it was trained on, for none were held back"
    better = f"error {found.error_before:.4f}, then {found.error_after:.4f} of the outputs' variance on {samples}"
    epochs = f"{found.epochs} epoch{'' if found.epochs == 1 else 's'}"
    return f"{epochs}: {better}" if found.changed else f"{epochs} made nothing better on {samples}; left as it was"


def _quantized(subject: Subject, work: Work, options: Quantize, fit: Samples, clock: Callable[[], float]) -> Work:
    start = clock()
    path = subject.folder / QUANTIZED
    quantize(work.artifact, path, fit, subject.graph.fixed_batch(), options)
    scales = "one scale for each " + ("output channel" if options.weights == "per_channel" else "weight tensor")
    weights = None
    if subject.request.external_data:
        weights = written.write_model(onnx.load(path), subject.loaded.shelf, path, apart=True)
    made = Made("quantized", path, weights, clock() - start, f"eight bits, {scales}")
    return replace(work, artifact=path, weights=weights, made=(*work.made, made), quantized=True)


def write_model(model: ir.Model, subject: Subject, name: str) -> tuple[Path, Path | None]:
    """The model's file in the work folder, and that of its weights where there is one."""
    path = subject.folder / name
    apart = subject.request.external_data
    return path, written.write_model(surgery.to_proto(model), subject.loaded.shelf, path, apart=apart)


def tidy(folder: Path, weights: Collection[str]) -> None:
    """Remove what the steps left, but for what has been given another name, and these files of weights."""
    for path in list(folder.iterdir()):
        if path.name in (PRUNED, DISTILLED, QUANTIZED) or (is_weights(path.name) and path.name not in weights):
            path.unlink()
