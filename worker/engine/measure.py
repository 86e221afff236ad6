"""The cut model is proved, finished and measured; then it gets its name.

In: the subject, the work done to it, the samples. Out: `Judged`, and the job's files in the work folder. Refused: a
model that differs from its masked self (`exactness_failed`), and what finishing and judging refuse.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import onnx_ir as ir
import torch

from schemas.errors import EspalierError
from schemas.files import ARTIFACT
from schemas.report import Exactness, FinishingStep, Report, Score, Stored
from worker.engine import evaluate, surgery, verify
from worker.engine.data import Samples, Split
from worker.engine.execute import Executor, to_numpy
from worker.engine.finish import FLOAT, finish, tidy
from worker.engine.further import add_file
from worker.engine.graph import Array, Graph
from worker.engine.load import gzip_bytes
from worker.engine.quantised import without_rounding
from worker.engine.render import write_reports
from worker.engine.stages import Judged, Stages, Subject, Work, both
from worker.engine.storage import SPARSE, sparsely
from worker.engine.written import write_model

PROOF_SAMPLES = 256
Form = Literal["dense", "sparse"]


def measure(
    subject: Subject,
    work: Work,
    data: Split,
    probe: Samples,
    stage: Stages,
    latency_before_ms: float | None = None,
) -> tuple[Work, Judged]:
    """Proved, or refused; then finished and judged. The uploaded model's latency may be known already."""
    with stage("prove", "comparing with the masked model"):
        proof = _prove(subject, work, probe.rows(0, min(PROOF_SAMPLES, probe.count)))
        verify.assert_exact(proof)
    work = finish(subject, work, data, stage)
    with stage("judge", "measuring both models in onnxruntime"):
        return work, _judge(subject, work, proof, data.evaluation, probe, latency_before_ms)


def _prove(subject: Subject, work: Work, samples: Samples) -> Exactness:
    """cut(M) against masked(M), both in onnxruntime; for zeroed weights, the artifact against the torch executor."""
    graph, shelf = subject.graph, subject.loaded.shelf
    names = surgery.comparable_outputs(graph)
    batch = graph.fixed_batch()
    fed = evaluate.pad(samples, batch).rows(0, batch or samples.count)

    def run(model: ir.Model) -> list[Array]:
        path = shelf.save(surgery.to_proto(model, names), "proof.onnx")
        found = evaluate.run(evaluate.session(path, threads=torch.get_num_threads()), fed, names)
        return [found[name] for name in names]

    cut, dense = run(work.model), run(subject.loaded.model)
    if subject.request.criterion.prunes_weights():
        masked = _run_in_torch(without_rounding(graph), {**graph.constants, **work.changed}, fed.inputs, names)
    else:
        model, ties, groups = subject.loaded.model, subject.analysis.ties, subject.groups
        masked = run(surgery.masked(model, ties, work.changed, groups, work.gone, shelf))
    half = any(array.dtype.name == "float16" for array in graph.constants.values())
    proof = verify.compare(names, cut, masked, dense, batch or samples.count, half=half)
    if not proof.passed:
        verify.assert_finite(names, dense)
    over_kept = surgery.kept_masks(subject.analysis.ties, subject.groups, work.gone)
    return proof.model_copy(update={"over_kept": tuple(graph.ops[index].name for index in over_kept)})


def _run_in_torch(
    graph: Graph, constants: Mapping[str, Array], feeds: Mapping[str, Array], names: tuple[str, ...]
) -> list[Array]:
    found: dict[str, Array] = {}

    def visit(name: str, value: torch.Tensor | Array) -> None:
        if name in names:
            found[name] = to_numpy(value)

    Executor(graph, "cpu", constants).run(feeds, visit)
    return [found[name] for name in names]


def _judge(
    subject: Subject,
    work: Work,
    proof: Exactness,
    samples: Samples | None,
    probe: Samples,
    latency_before_ms: float | None,
) -> Judged:
    """Accuracy and latency of the uploaded model and of the bytes that the caller will fetch."""
    batch = subject.graph.fixed_batch()
    one = evaluate.pad(probe.rows(0, 1), batch)
    models = [subject.loaded.shelf.save(subject.loaded.proto, "uploaded.onnx")]
    models += [made.path for made in work.made] or [work.artifact]
    scores, unjudged, times = _one_by_one(subject, models, samples, one, latency_before_ms)
    first, *others = scores
    before_ms, *fast = times
    steps = tuple(
        FinishingStep(
            step=made.step,
            seconds=made.seconds,
            file_bytes=sum(path.stat().st_size for path in made.files()),
            gzip_bytes=sum(map(gzip_bytes, made.files())),
            latency_ms=latency,
            accuracy=score,
            detail=made.detail,
        )
        for made, latency, score in zip(work.made, fast, others, strict=False)
    )
    forms = _stored(subject, work, one, fast[-1])
    return Judged(proof, first, others[-1], before_ms, fast[-1], steps, unjudged, forms)


def _one_by_one(
    subject: Subject, models: Sequence[Path], samples: Samples | None, one: Samples, latency_before_ms: float | None
) -> tuple[Sequence[Score | None], str, list[float]]:
    """The scores of all models over the same samples, why there are none, and how fast each is. A session takes about
    the size of its model: none stands beside another."""
    scores: list[Score | None] = []
    times: list[float] = []
    reference, unjudged = None, ""
    for path in models:
        if samples is None and latency_before_ms is not None and not times:
            times.append(latency_before_ms)
            continue
        running = evaluate.session(path)
        try:
            if samples is not None and not unjudged:
                reference, score = _judged(subject, reference, running, samples)
                scores.append(score)
        except EspalierError as error:
            unjudged = _unjudged(subject, samples, error)
        known = None if times else latency_before_ms
        times.append(evaluate.latency_ms(running, one) if known is None else known)
        del running
        subject.loaded.shelf.release()
    return scores if len(scores) == len(models) else [None for _ in models], unjudged, times


def _judged(
    subject: Subject, reference: evaluate.Reference | None, model: evaluate.Session, samples: Samples
) -> tuple[evaluate.Reference, Score]:
    """The first model's answers are what the others' are held against."""
    if reference is not None:
        return reference, reference.judge(model)
    task = evaluate.resolve_task(subject.request.evaluation, output_infos(subject), samples.labels)
    reference = evaluate.Reference(task, model, samples, subject.graph.fixed_batch(), subject.loaded.shelf)
    return reference, reference.score


def _unjudged(subject: Subject, samples: Samples | None, error: EspalierError) -> str:
    """An output that cannot be judged is a refusal where somebody asked for it; else the report says so."""
    asked = subject.request.evaluation.model_fields_set or (samples is not None and samples.labels is not None)
    if error.code != "evaluation_invalid" or asked:
        raise error
    return error.failure.detail


def _stored(subject: Subject, work: Work, one: Samples, latency_ms: float) -> tuple[Stored, ...]:
    """The forms that a model with zeros is stored in, each measured; the sparse one computes as the dense one does."""
    request = subject.request
    if not request.criterion.prunes_weights():
        return ()
    forms: list[tuple[Form, str, tuple[Path, ...], float]]
    forms = [("dense", ARTIFACT, both(work.artifact, work.weights), latency_ms)]
    if request.sparse_output:
        path = _write_sparsely(subject, work)
        _assert_equal(work.artifact, path, one)
        forms.append(("sparse", SPARSE, (path,), evaluate.latency_ms(evaluate.session(path), one)))
    known = work.model.graph.initializers
    held = [known[name].const_value for name in work.changed if name in known]
    arrays = [value.numpy() for value in held if value is not None]
    return tuple(
        Stored(
            form=form,
            file=name,
            file_bytes=sum(path.stat().st_size for path in paths),
            gzip_bytes=sum(map(gzip_bytes, paths)),
            nonzero_weights=sum(int(np.count_nonzero(array)) for array in arrays),
            weights=sum(array.size for array in arrays),
            latency_ms=latency,
        )
        for form, name, paths, latency in forms
    )


def _write_sparsely(subject: Subject, work: Work) -> Path:
    path, shelf = subject.folder / SPARSE, subject.loaded.shelf
    proto = sparsely(surgery.to_proto(work.model), shelf, work.changed.keys())
    if write_model(proto, shelf, path, apart=False) is not None:
        detail = "even its sparse form takes more than the 2 GiB that one file holds"
        raise EspalierError("model_too_large", detail, where="/sparse_output", hint="Leave sparse_output out.")
    return path


def _assert_equal(dense: Path, sparse: Path, samples: Samples) -> None:
    names = [port.name for port in evaluate.session(dense).get_outputs()]
    found = [evaluate.run(evaluate.session(path), samples, names) for path in (dense, sparse)]
    one, other = ([outputs[name] for name in names] for outputs in found)
    verify.assert_exact(verify.compare(names, other, one, one, samples.count))


def output_infos(subject: Subject) -> list[evaluate.OutputInfo]:
    """What is known of each output: its shape as run, and the operator behind it."""
    graph, seen = subject.graph, subject.analysis.ties.seen
    infos = []
    for port in graph.outputs:
        maker = graph.producer.get(port.name)
        shape, declared = seen.shapes.get(port.name, ()), port.shape
        if samples := graph.sample_axes[port.name]:
            shape = _to_front(shape, samples)
            declared = None if declared is None else _to_front(declared, samples)
        infos.append(
            evaluate.OutputInfo(
                name=port.name,
                shape=(None, *_free_where_dynamic(shape, declared)),
                op_type=maker.key if maker is not None else "",
                axis=maker.integer("axis", -1) if maker is not None and maker.key == "Softmax" else None,
                integers=port.name in seen.dtypes and seen.dtypes[port.name].kind in "iu",
            )
        )
    return infos


Size = TypeVar("Size")


def _to_front(shape: tuple[Size, ...], axis: int) -> tuple[Size, ...]:
    return (*shape[axis : axis + 1], *shape[:axis], *shape[axis + 1 :])


def _free_where_dynamic(seen: tuple[int, ...], declared: tuple[int | None, ...] | None) -> tuple[int | None, ...]:
    """Dimensions after the first, unknown where the model leaves them open."""
    if declared is None or len(declared) != len(seen):
        return seen[1:]
    return tuple(size if fixed is not None else None for size, fixed in zip(seen[1:], declared[1:], strict=True))


def write(report: Report, work: Work, workdir: Path) -> None:
    """The artifact and the reports under their names; where the artifact is in eight bits, the float model too."""
    weights = [work.weights]
    if work.quantized:
        work.made[-2].path.rename(add_file(workdir, FLOAT))
        weights.append(work.made[-2].weights)
    if report.options.sparse_output:
        add_file(workdir, SPARSE)
    work.artifact.rename(workdir / ARTIFACT)
    kept = sorted({path.name for path in weights if path is not None})
    tidy(workdir, kept)
    for name in kept:
        add_file(workdir, name)
    write_reports(report, workdir)
