"""One pruning job, from files to files: load, read, analyse, observe, select, cut, prove, judge, report.

In: a request and the paths of its inputs. Out: `Report`, and in the work folder artifact.onnx, report.json, report.html
and report.md. Refused: whatever a stage refuses, as an `EspalierError`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from schemas.criteria import Distinctiveness, Karnin
from schemas.criteria.loss import LossCriterion
from schemas.errors import EspalierError
from schemas.job import Progress
from schemas.report import Exactness, Report, Score
from schemas.request import Evaluation, PruneRequest
from worker.engine import cost, evaluate, surgery, verify
from worker.engine.axes import Analysis, Group
from worker.engine.compensate import Done, compensate
from worker.engine.criteria import passed_over, ranking
from worker.engine.criteria.evidence import Centre, Evidence, Step, gather
from worker.engine.data import Samples
from worker.engine.execute import Executor, to_numpy
from worker.engine.gates import Look
from worker.engine.graph import Array, Graph
from worker.engine.losses import Wish, resolve_loss
from worker.engine.observe import grams
from worker.engine.outline import whole
from worker.engine.prepare import Prepared, prepare
from worker.engine.quantised import without_rounding
from worker.engine.render import render_html, render_markdown
from worker.engine.report import assemble
from worker.engine.select import choose, group_in_scope, in_scope
from worker.engine.sensitivity import sensitivities
from worker.engine.shelf import Shelf
from worker.engine.sparsify import sparsify
from worker.engine.stages import Emit, InputFile, Inputs, Judged, Limits, Stages, Subject, Work

__all__ = ["Emit", "InputFile", "Inputs", "Limits", "prune"]

PROOF_SAMPLES = 256


def prune(request: PruneRequest, inputs: Inputs, workdir: Path, limits: Limits, emit: Emit) -> Report:
    """Run the job and leave its four files in the work folder."""
    with Shelf.inside(workdir) as shelf:
        stage = Stages(emit, shelf.release)
        ready = prepare(request, inputs, workdir, limits, stage, shelf)
        report = _run(request, inputs, ready, limits, stage)
    emit(Progress(stage="report", fraction=1.0, message="done"))
    return report


def _run(request: PruneRequest, inputs: Inputs, ready: Prepared, limits: Limits, stage: Stages) -> Report:
    subject = subject_of(request, inputs, ready)
    executor, data, probe = ready.executor, ready.data, ready.probe
    with stage("observe", "running the calibration data"):
        evidence = observe(wanted(request), subject, executor, data.fit, stage)
    del ready, executor  # a copy of all weights that nobody needs any more
    work = remove(subject, evidence, stage)
    del evidence  # it may have gathered all weights in double precision
    judged = measure(subject, work, data.evaluation, probe, stage)
    with stage("report", "writing the report"):
        report = assemble(subject, work, judged, data.use, tuple(stage.timings), limits.threads)
        _write(report, subject.folder)
    return report


def subject_of(request: PruneRequest, inputs: Inputs, ready: Prepared) -> Subject:
    """The prepared model under a request's knife."""
    groups = _groups(request, ready.analysis)
    sensitive = sensitivities(request.criterion, ready.history, ready.graph)
    return Subject(
        request, inputs, ready.loaded, ready.graph, ready.analysis, groups, ready.device, ready.folder, sensitive
    )


def remove(subject: Subject, evidence: Mapping[str, Evidence], stage: Stages) -> Work:
    """One point of the way from nothing to everything: what the request takes is chosen and cut."""
    with stage("select", "choosing what goes"):
        passed = passed_over(subject.request.criterion, evidence)
        taken = _select(subject, evidence, passed)
    with stage("cut", "removing it"):
        return _cut(subject, taken, evidence, passed)


def measure(
    subject: Subject,
    work: Work,
    evaluation: Samples | None,
    probe: Samples,
    stage: Stages,
    latency_before_ms: float | None = None,
) -> Judged:
    """Proved, or refused; then judged. The uploaded model's latency may be known already."""
    with stage("prove", "comparing with the masked model"):
        proof = _prove(subject, work, probe.rows(0, min(PROOF_SAMPLES, probe.count)))
        verify.assert_exact(proof)
    with stage("judge", "measuring both models in onnxruntime"):
        return _judge(subject, work, proof, evaluation, probe, latency_before_ms)


def _groups(request: PruneRequest, analysis: Analysis) -> tuple[Group, ...]:
    """The groups in scope. Refuses a model or a scope without any."""
    weights = request.criterion.prunes_weights()
    if not (analysis.layers if weights else analysis.groups):
        reasons = "; ".join(dict.fromkeys(stay.message for stay in analysis.stays[:5]))
        raise EspalierError("nothing_to_prune", reasons or "no layer with constant weights was found", where="model")
    groups = tuple(group for group in analysis.groups if group_in_scope(request.scope, group))
    layers = [layer for layer in analysis.layers if in_scope(request.scope, layer)]
    if not (layers if weights else groups):
        makers = analysis.layers if weights else [layer for group in analysis.groups for layer in group.layers]
        names = [layer.name for layer in analysis.layers] if weights else [group.name for group in analysis.groups]
        raise EspalierError(
            "scope_matches_nothing",
            f"{request.scope.model_dump_json(exclude_defaults=True)} leaves nothing; what can be pruned: "
            f"{', '.join(names[:20])}{', ...' if len(names) > 20 else ''}; "
            f"of the operators {', '.join(sorted({layer.op.key for layer in makers}))}",
            where="/scope",
        )
    return groups


@dataclass(frozen=True)
class Wanted:
    """Which evidence a request asks for. It is all that `observe` sees of the request, so that requests with equal
    ones may share what was observed."""

    units: bool  # anything at all: single weights are ranked without
    grams: bool
    seed: int
    zeros: bool = False
    loss: "LossWanted | None" = None
    learning_rate: float | None = None  # of Karnin's formula


@dataclass(frozen=True)
class LossWanted:
    """What the loss is, and on how many samples."""

    wish: Wish
    samples: int | None
    evaluation: Evaluation


def wanted(request: PruneRequest) -> Wanted:
    """What the criterion and the compensation look at."""
    units = not request.criterion.prunes_weights()
    criterion = request.criterion
    loss = None
    if isinstance(criterion, LossCriterion):
        loss = LossWanted(criterion.loss, criterion.samples, request.evaluation)
    rate = criterion.learning_rate if isinstance(criterion, Karnin) else None
    grams = units and request.needs_grams()
    return Wanted(units, grams, request.seed, criterion.counts_zeros(), loss, rate)


def observe(
    want: Wanted, subject: Subject, executor: Executor, fit: Samples | None, stage: Stages
) -> dict[str, Evidence]:
    """The evidence on each group: weights always, Grams and the loss where the request looks at them."""
    if not want.units:
        return {}
    graph = subject.graph
    found = {}
    if fit is not None and want.grams:
        found = grams(executor, subject.groups, _batches(graph, fit, stage), want.zeros)
    look = None
    if fit is not None and want.loss is not None:
        look = _look(want.loss, subject, executor, fit, stage)
    return {
        group.name: gather(
            graph,
            group,
            found.get(group.name, ()),
            want.seed,
            partial(look.open, group) if look else None,
            subject.sensitivities,
        )
        for group in subject.groups
    }


def _look(want: LossWanted, subject: Subject, executor: Executor, fit: Samples, stage: Stages) -> Look:
    """What opens the groups' gates, later, when they are ranked."""
    some = fit.rows(0, min(want.samples or fit.count, fit.count))
    task = evaluate.resolve_task(want.evaluation, _output_infos(subject), fit.labels)
    seen = subject.analysis.ties.seen
    opened = count(1)

    def tick(name: str) -> None:
        stage.within(min(next(opened) / len(subject.groups), 1.0), f"what {name} does to the loss")

    return Look(executor, seen, subject.groups, resolve_loss(want.wish, task, subject.graph, seen), some, tick)


def _batches(graph: Graph, samples: Samples, stage: Stages) -> Iterator[Mapping[str, Array]]:
    """Samples in chunks. Of a fixed batch only whole ones, unless the first is not."""
    size = graph.fixed_batch()
    done = 0
    for part in samples.batches(size or evaluate.chunk_rows(samples)):
        if size is None or part.count == size:
            yield part.inputs
        elif done == 0:
            yield evaluate.pad(part, size).inputs
        done += part.count
        stage.within(done / samples.count, f"{done:,} of {samples.count:,} samples")


def _select(
    subject: Subject, evidence: Mapping[str, Evidence], passed: Mapping[str, str]
) -> dict[str, tuple[Step, ...]]:
    request, graph, seen = subject.request, subject.graph, subject.analysis.ties.seen
    if request.criterion.prunes_weights():
        return {}

    def cost_of(lost: Mapping[str, int]) -> cost.Cost:
        return cost.cost(graph, cost.shapes_after(seen, cost.axes_gone(subject.groups, lost)))

    groups = [group for group in subject.groups if group.name not in passed]
    chosen = choose(request, ranking(request.criterion), groups, evidence, cost_of)
    return {group.name: chosen.get(group.name, ()) for group in subject.groups}


def _cut(
    subject: Subject,
    taken: Mapping[str, tuple[Step, ...]],
    evidence: Mapping[str, Evidence],
    passed: Mapping[str, str],
) -> Work:
    """Compensate on full width, then cut a clone. Unstructured criteria zero weights and cut nothing."""
    request, graph, ties, shelf = subject.request, subject.graph, subject.analysis.ties, subject.loaded.shelf
    done: dict[str, tuple[Done, ...]] = {}
    if request.criterion.prunes_weights():
        layers = [layer for layer in subject.analysis.layers if in_scope(request.scope, layer)]
        changed = sparsify(request, graph, layers, subject.sensitivities)
    else:
        changed, done = compensate(request.compensation, _centre(request), graph, subject.groups, taken, evidence)
    changed = {name: shelf.keep(array) for name, array in changed.items()}
    gone = {name: tuple(sorted(step.unit for step in steps)) for name, steps in taken.items()}
    lost = cost.axes_gone(subject.groups, {name: len(units) for name, units in gone.items()})
    after = cost.shapes_after(ties.seen, lost)
    model = surgery.cut(subject.loaded.model, ties, changed, surgery.indices_gone(subject.groups, gone), after, shelf)
    surgery.share_again(model, subject.loaded.copies)
    surgery.stamp(model, request, subject.inputs.model.sha256)
    artifact = subject.folder / "artifact.onnx"
    with artifact.open("wb") as file:
        file.writelines(whole(surgery.to_proto(model), shelf))
    return Work(changed, gone, done, passed, model, artifact)


def _centre(request: PruneRequest) -> Centre:
    """Which centring angles and projections use; criteria without one take the range's middle."""
    return request.criterion.centre if isinstance(request.criterion, Distinctiveness) else "auto"


def _prove(subject: Subject, work: Work, samples: Samples) -> Exactness:
    """cut(M) against masked(M), both in onnxruntime; for zeroed weights, the artifact against the torch executor."""
    graph, shelf = subject.graph, subject.loaded.shelf
    names = surgery.comparable_outputs(graph)
    batch = graph.fixed_batch()
    feeds = evaluate.pad(samples, batch).rows(0, batch or samples.count).inputs

    def run(model: ir.Model) -> list[Array]:
        path = shelf.save(surgery.to_proto(model, names), "proof.onnx")
        found = evaluate.session(path, threads=torch.get_num_threads()).run(list(names), dict(feeds))
        return [np.asarray(one) for one in found]

    cut, dense = run(work.model), run(subject.loaded.model)
    if subject.request.criterion.prunes_weights():
        masked = _run_in_torch(without_rounding(graph), {**graph.constants, **work.changed}, feeds, names)
    else:
        model, ties, groups = subject.loaded.model, subject.analysis.ties, subject.groups
        masked = run(surgery.masked(model, ties, work.changed, groups, work.gone, shelf))
    proof = verify.compare(names, cut, masked, dense, batch or samples.count)
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
    before = evaluate.session(subject.loaded.shelf.save(subject.loaded.proto, "uploaded.onnx"))
    after = evaluate.session(work.artifact)
    scores: tuple[Score | None, Score | None] = None, None
    if samples is not None:
        task = evaluate.resolve_task(subject.request.evaluation, _output_infos(subject), samples.labels)
        scores = evaluate.judge(task, before, after, samples, batch)
    if latency_before_ms is None:
        latency_before_ms = evaluate.latency_ms(before, one)
    return Judged(proof, *scores, latency_before_ms, evaluate.latency_ms(after, one))


def _output_infos(subject: Subject) -> list[evaluate.OutputInfo]:
    """What is known of each output: its shape as run, and the operator behind it."""
    graph, seen = subject.graph, subject.analysis.ties.seen
    infos = []
    for port in graph.outputs:
        maker = graph.producer.get(port.name)
        shape = seen.shapes.get(port.name, ())
        infos.append(
            evaluate.OutputInfo(
                name=port.name,
                shape=(None, *_free_where_dynamic(shape, port.shape)),
                op_type=maker.key if maker is not None else "",
                axis=maker.integer("axis", -1) if maker is not None and maker.key == "Softmax" else None,
                integers=port.name in seen.dtypes and seen.dtypes[port.name].kind in "iu",
            )
        )
    return infos


def _free_where_dynamic(seen: tuple[int, ...], declared: tuple[int | None, ...] | None) -> tuple[int | None, ...]:
    """Dimensions after the first, unknown where the model leaves them open."""
    if declared is None or len(declared) != len(seen):
        return seen[1:]
    return tuple(size if fixed is not None else None for size, fixed in zip(seen[1:], declared[1:], strict=True))


def _write(report: Report, workdir: Path) -> None:
    (workdir / "report.json").write_text(report.model_dump_json(by_alias=True, indent=1), encoding="utf-8")
    (workdir / "report.html").write_text(render_html(report), encoding="utf-8")
    (workdir / "report.md").write_text(render_markdown(report), encoding="utf-8")
