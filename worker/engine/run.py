"""One pruning job, from files to files: load, read, analyse, observe, select, cut, prove, judge, report.

In: a request and the paths of its inputs. Out: `Report`, and in the work folder artifact.onnx, report.json, report.html
and report.md. Refused: whatever a stage refuses, as an `EspalierError`.
"""

from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from schemas.criteria import Karnin
from schemas.criteria.loss import LossCriterion
from schemas.errors import EspalierError
from schemas.job import Progress
from schemas.report import Report
from schemas.request import Evaluation, PruneRequest
from worker.engine import cost, evaluate
from worker.engine.axes import Analysis, Group
from worker.engine.blame import blamed
from worker.engine.coverage import inside_branches
from worker.engine.criteria.evidence import Evidence, gather
from worker.engine.data import Samples
from worker.engine.embedded.check import keep_samples
from worker.engine.execute import Executor
from worker.engine.gates import Look
from worker.engine.losses import Wish, resolve_loss
from worker.engine.measure import measure, output_infos, write
from worker.engine.observe import batch_rows, batches, grams
from worker.engine.prepare import Prepared, prepare
from worker.engine.refit.consumers import consumers
from worker.engine.refit.teacher import RecurrentSight, Sight, Watching
from worker.engine.report import assemble
from worker.engine.search import refuse_misfit, take
from worker.engine.select import group_in_scope, in_scope
from worker.engine.sensitivity import sensitivities
from worker.engine.shelf import Shelf
from worker.engine.stages import Emit, InputFile, Inputs, Limits, Stages, Subject

__all__ = ["Emit", "InputFile", "Inputs", "Limits", "prune"]

LONGEST_SCOPE = 300


def prune(request: PruneRequest, inputs: Inputs, workdir: Path, limits: Limits, emit: Emit) -> Report:
    """Run the job and leave its four files in the work folder."""
    with Shelf.inside(workdir) as shelf:
        stage = Stages(emit, shelf.release)
        report = _run(request, inputs, prepare(request, inputs, workdir, limits, stage, shelf), limits, stage)
    emit(Progress(stage="report", fraction=1.0, message="done"))
    return report


def _run(request: PruneRequest, inputs: Inputs, ready: Prepared, limits: Limits, stage: Stages) -> Report:
    subject = subject_of(request, inputs, ready)
    executor, data, probe = ready.executor, ready.data, ready.probe
    with blamed(ready.loaded, probe):
        with stage("observe", "running the calibration data"):
            evidence = observe(wanted(request), subject, executor, data.fit, stage)
        del ready, executor  # a copy of all weights that nobody needs any more
        work, found = take(subject, evidence, data, stage)
        del evidence  # it may have gathered all weights in double precision
        work, judged = measure(subject, work, data, probe, stage)
    with stage("report", "writing the report"):
        report = assemble(subject, work, judged, data.use, tuple(stage.timings), limits.threads, found)
        refuse_misfit(report)
        write(report, work, subject.folder)
        if request.verify_on is not None:
            keep_samples(subject.folder, probe, subject.graph.fixed_batch() or 1, report.after.macs)
    return report


def subject_of(request: PruneRequest, inputs: Inputs, ready: Prepared) -> Subject:
    """The prepared model under a request's knife."""
    groups = _groups(request, ready.analysis)
    sensitive = sensitivities(request.criterion, ready.history, ready.graph)
    return Subject(
        request, inputs, ready.loaded, ready.graph, ready.analysis, groups, ready.device, ready.folder,
        evaluate.pad(ready.probe.rows(0, 1), ready.graph.fixed_batch()), sensitive,
    )  # fmt: skip


def _groups(request: PruneRequest, analysis: Analysis) -> tuple[Group, ...]:
    """The groups in scope. Refuses a model or a scope without any."""
    weights = request.criterion.prunes_weights()
    if not (analysis.layers if weights else analysis.groups):
        inside = [inside_branches(op) for op in analysis.ties.graph.ops if cost.inner_parameters(op)]
        reasons = "; ".join(dict.fromkeys([*(stay.message for stay in analysis.stays[:5]), *inside[:5]]))
        raise EspalierError("nothing_to_prune", reasons or "no layer with constant weights was found", where="model")
    groups = tuple(group for group in analysis.groups if group_in_scope(request.scope, group))
    layers = [layer for layer in analysis.layers if in_scope(request.scope, layer)]
    if not (layers if weights else groups):
        makers = analysis.layers if weights else [layer for group in analysis.groups for layer in group.layers]
        names = [layer.name for layer in analysis.layers] if weights else [group.name for group in analysis.groups]
        raise EspalierError(
            "scope_matches_nothing",
            f"{request.scope.model_dump_json(exclude_defaults=True)[:LONGEST_SCOPE]} leaves nothing; what can be "
            f"pruned: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}; "
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
    sights: bool = False  # what the readers of each group see; Grams then only of groups that no fitted operator reads
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
    return Wanted(
        units,
        grams=units and request.needs_grams(),
        seed=request.seed,
        zeros=criterion.counts_zeros(),
        sights=criterion.watches_readers(),
        loss=loss,
        learning_rate=criterion.learning_rate if isinstance(criterion, Karnin) else None,
    )


def observe(
    want: Wanted, subject: Subject, executor: Executor, fit: Samples | None, stage: Stages
) -> dict[str, Evidence]:
    """The evidence on each group: weights always, Grams and the loss where the request looks at them."""
    if not want.units:
        return {}
    graph, found = subject.graph, {}
    sights: dict[str, tuple[Sight | RecurrentSight, ...]] = {}
    if fit is not None and (want.grams or want.sights):
        watched = consumers(graph, subject.analysis.ties.seen, subject.groups) if want.sights else ()
        parts, shelf = -(-fit.count // batch_rows(graph, fit)), subject.loaded.shelf
        watching = Watching(executor, watched, parts, want.seed, shelf)
        groups = [group for group in subject.groups if want.grams or not watching.sees(group.name)]
        found = grams(executor, groups, batches(graph, fit, stage.within), want.zeros, watching.visit, shelf)
        sights = watching.sights()
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
            sights.get(group.name, ()),
        )
        for group in subject.groups
    }


def _look(want: LossWanted, subject: Subject, executor: Executor, fit: Samples, stage: Stages) -> Look:
    """What opens the groups' gates, later, when they are ranked."""
    some = fit.rows(0, min(want.samples or fit.count, fit.count))
    task = evaluate.resolve_task(want.evaluation, output_infos(subject), fit.labels)
    seen = subject.analysis.ties.seen
    opened = count(1)

    def tick(name: str) -> None:
        stage.within(min(next(opened) / len(subject.groups), 1.0), f"what {name} does to the loss")

    return Look(executor, seen, subject.groups, resolve_loss(want.wish, task, subject.graph, seen), some, tick)
