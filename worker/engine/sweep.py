"""Many prunings of one model: loaded, analysed and run on the data once, then one point after another.

In: the request of a sweep or a comparison and the paths of its inputs. Out: `SweepReport`, and in the work folder
report.json, report.html, report.md, curve.csv, curve.svg, the models that are kept with their own reports, and for an
error surface surface.csv, degradation.csv and surface.svg. Refused: whatever loading, reading and analysing refuse,
and to keep more models than `KEPT_BYTES`. A point that cannot be run is a row with its failure; only where none can is
it the job's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import EspalierError, Failure
from schemas.job import Progress
from schemas.report import Report, StageTiming
from schemas.sweep import CompareRequest, Planned, SurfaceRequest, SweepRequest
from schemas.sweep_report import SweepReport, SweepSource
from worker.engine.blame import blamed
from worker.engine.cautions import NO_HISTORY_ASKED
from worker.engine.data import Samples, Split
from worker.engine.execute import Executor
from worker.engine.finish import tidy
from worker.engine.further import add_file
from worker.engine.measure import measure
from worker.engine.points import Ran, chosen, summary, verdict_of
from worker.engine.prepare import Prepared, prepare, read
from worker.engine.probe import probe_samples
from worker.engine.render import curves, render_sweep_html, render_sweep_markdown, sheet, surfaces
from worker.engine.report import VERSIONS, assemble
from worker.engine.run import Wanted, observe, subject_of, wanted
from worker.engine.search import take
from worker.engine.shelf import Shelf
from worker.engine.stages import ENDS, Emit, Inputs, Limits, Stages
from worker.engine.surface import ranked, surface
from worker.engine.tables import curve_table, degradation_table, surface_table

KEPT_BYTES = 8 << 30  # all models that a sweep may keep, together
BEGUN, ENDED = ENDS["analyse"], ENDS["judge"]


@dataclass
class Bench:
    """What all points share. `timings` grows."""

    request: SweepRequest | CompareRequest
    inputs: Inputs
    ready: Prepared
    workdir: Path
    limits: Limits
    emit: Emit
    timings: list[StageTiming]
    release: Callable[[], None]
    latency_before_ms: float | None = None
    done: int = 0
    now: int = 1  # the number of the point at work
    ran: dict[int, list[Ran]] = field(default_factory=dict)

    def stage(self) -> Stages:
        """A clock for one point after another, whose progress is each one's share of the whole."""
        runs = len(self.request.plan) * self.request.repeat

        def inside(progress: Progress) -> None:
            own = min(max((progress.fraction - BEGUN) / (ENDED - BEGUN), 0.0), 1.0)
            fraction = BEGUN + (ENDED - BEGUN) * min((self.done + own) / runs, 1.0)
            label = self.request.plan[self.now - 1].label
            message = f"{progress.stage}{': ' if progress.message else ''}{progress.message} ({label})"
            stage = f"point {self.now} of {len(self.request.plan)}"
            self.emit(Progress(stage=stage, fraction=fraction, message=message))

        return Stages(inside, self.release, reached=BEGUN, timings=self.timings)


def sweep(
    request: SweepRequest | CompareRequest, inputs: Inputs, workdir: Path, limits: Limits, emit: Emit
) -> SweepReport:
    """Run every point with every seed, and leave the job's files in the work folder."""
    with Shelf.inside(workdir) as shelf:
        stage = Stages(emit, shelf.release)
        ready = prepare(request, inputs, workdir, limits, stage, shelf)
        _check_room(request, ready.loaded.file_bytes)
        bench = Bench(request, inputs, ready, workdir, limits, emit, stage.timings, shelf.release)
        with blamed(ready.loaded, ready.probe):
            _run_seeds(bench)
        report = _report(bench)
        if isinstance(request, CompareRequest) and request.surface is not None:
            report = _with_surface(bench, request.surface, report)
        _write(bench, report)
    emit(Progress(stage="report", fraction=1.0, message="done"))
    return report


def _check_room(request: SweepRequest | CompareRequest, model_bytes: int) -> None:
    """Refuses to keep more than anybody wants to store, before hours are spent on it."""
    together = len(request.plan) * model_bytes
    if request.keep == "all" and together > KEPT_BYTES:
        detail = f'keep "all" of {len(request.plan)} points may take {together:,} bytes; {KEPT_BYTES:,} are the most'
        raise EspalierError("options_invalid", detail, where="/keep", hint='Use keep: "best", or fewer points.')


def _run_seeds(bench: Bench) -> None:
    request, inputs, limits, ready = bench.request, bench.inputs, bench.limits, bench.ready
    for seed in range(request.seed, request.seed + request.repeat):
        data, probe = ready.data, ready.probe
        if seed != request.seed:
            data = read(request, inputs, ready.graph, limits, seed)
            probe = probe_samples(ready.graph, data, seed, ready.open_size)
        for want, numbers in _by_evidence(request.plan, seed):
            _run_all(bench, want, numbers, data, probe, seed)


def _by_evidence(plan: Sequence[Planned], seed: int) -> Iterator[tuple[Wanted, list[int]]]:
    """The points' numbers, together where what they look at is the same."""
    together: dict[tuple[Wanted, str, str], list[int]] = {}
    for number, point in enumerate(plan, start=1):
        request = point.request.model_copy(update={"seed": seed})
        history = request.criterion.model_dump_json() if request.needs_history() else ""
        key = wanted(request), request.scope.model_dump_json(), history
        together.setdefault(key, []).append(number)
    for (want, _, _), numbers in together.items():
        yield want, numbers


def _run_all(bench: Bench, want: Wanted, numbers: list[int], data: Split, probe: Samples, seed: int) -> None:
    """Points with the same evidence, one after another; a failure is its point's, or all those points'."""
    ready = bench.ready
    first = bench.request.plan[numbers[0] - 1].request.model_copy(update={"seed": seed})
    bench.now, stage = numbers[0], bench.stage()
    try:
        subject = subject_of(first, bench.inputs, ready)
        with stage("observe", "running the calibration data"):
            evidence = observe(want, subject, Executor(ready.graph, ready.device), data.fit, stage)
    except EspalierError as error:
        for number in numbers:
            bench.ran.setdefault(number, []).append(Ran(seed, error.failure))
            bench.done += 1
        return
    for number in numbers:
        request = bench.request.plan[number - 1].request.model_copy(update={"seed": seed})
        bench.now, stage.reached = number, BEGUN
        try:
            with ready.loaded.shelf.section():
                subject = subject_of(request, bench.inputs, ready)
                work, found = take(subject, evidence, data, stage)
                work, judged = measure(subject, work, data, probe, stage, bench.latency_before_ms)
                bench.latency_before_ms = judged.latency_before_ms
                outcome = assemble(subject, work, judged, data.use, (), bench.limits.threads, found)
            if bench.request.keep != "none" and number not in bench.ran:
                work.artifact.replace(_model_path(bench, number))
        except EspalierError as error:
            bench.ran.setdefault(number, []).append(Ran(seed, error.failure))
        else:
            bench.ran.setdefault(number, []).append(Ran(seed, outcome))
        bench.done += 1
        firsts = [ran[0].outcome for ran in bench.ran.values() if bench.request.keep != "none"]
        tidy(bench.workdir, _weights([one for one in firsts if isinstance(one, Report)]))


def _model_path(bench: Bench, number: int) -> Path:
    return bench.workdir / f"point-{number:02}.onnx"


def _weights(kept: Sequence[Report]) -> set[str]:
    """The files of weights that these points' models name. Equal weights are one file."""
    return {name for report in kept for name in report.provenance.artifact_external_sha256}


def _report(bench: Bench) -> SweepReport:
    """All points together. Keeps the models that were asked for, and lets go of the others."""
    request = bench.request
    points = [summary(number, request.plan[number - 1], bench.ran[number]) for number in sorted(bench.ran)]
    reports = [one.outcome for ran in bench.ran.values() for one in ran if isinstance(one.outcome, Report)]
    if not reports:
        raise EspalierError.of(_first_failure(bench))
    best, because = chosen(points)
    kept_reports = []
    for place, point in enumerate(points):
        kept = request.keep == "all" or (request.keep == "best" and point.number == best)
        first = bench.ran[point.number][0].outcome
        if kept and isinstance(first, Report):
            points[place] = point.model_copy(update=_keep(bench, point.number, first))
            kept_reports.append(first)
        else:
            _model_path(bench, point.number).unlink(missing_ok=True)
    tidy(bench.workdir, _weights(kept_reports))
    for name in sorted(_weights(kept_reports)):
        add_file(bench.workdir, name)
    first_seed = [one for one in reports if one.provenance.seed == request.seed] or reports
    return SweepReport(
        kind=request.kind,
        options=request,
        verdict=verdict_of(points, best),
        before=first_seed[0].before,
        points=tuple(points),
        best=best,
        best_because=because,
        data=first_seed[0].data,
        warnings=tuple(_warnings(bench, reports[0])),
        timings=_added_up(bench.timings),
        source=_source(bench),
    )


def _with_surface(bench: Bench, ask: SurfaceRequest, report: SweepReport) -> SweepReport:
    """The report with the error surface of its criteria, on the first seed's data."""
    data, found, left_out = bench.ready.data, [], []
    stage = Stages(bench.emit, bench.release, reached=ENDED, timings=bench.timings)
    quiet = Stages(lambda _: None, name="observe")  # it was told of when the points were run
    if data.evaluation is None:
        told = "There is no error surface: there was no data to judge with."
        return report.model_copy(update={"warnings": (*report.warnings, told)})
    with stage("surface", "switching units off"):
        for series, request in {one.series: one.request for one in reversed(bench.request.plan)}.items():
            try:
                subject = subject_of(request, bench.inputs, bench.ready)
                executor = Executor(bench.ready.graph, bench.ready.device)
                evidence = observe(wanted(request), subject, executor, data.fit, quiet)
                found.append(ranked(series, subject, evidence))
            except EspalierError as error:
                left_out.append(f"{series}: {error.failure.detail}")
        made = surface(ask, found[::-1], data.evaluation, left_out[::-1], stage.within)
    add_file(bench.workdir, "surface.csv").write_text(surface_table(made), encoding="utf-8")
    add_file(bench.workdir, "degradation.csv").write_text(degradation_table(made), encoding="utf-8")
    return report.model_copy(update={"surface": made, "timings": _added_up(bench.timings)})


def _keep(bench: Bench, number: int, report: Report) -> dict[str, str | dict[str, str]]:
    """A point's model and report become files of the result."""
    model = add_file(bench.workdir, _model_path(bench, number).name)
    own = add_file(bench.workdir, f"point-{number:02}.json")
    own.write_text(report.model_dump_json(by_alias=True, indent=1), encoding="utf-8")
    source = report.provenance
    return {
        "artifact": model.name,
        "artifact_sha256": source.artifact_sha256,
        "artifact_external_sha256": source.artifact_external_sha256,
        "report": own.name,
    }


def _first_failure(bench: Bench) -> Failure:
    return next(one.outcome for ran in bench.ran.values() for one in ran if isinstance(one.outcome, Failure))


def _warnings(bench: Bench, report: Report) -> Iterator[str]:
    request = bench.request
    if bench.inputs.history is not None and not request.needs_history():
        yield NO_HISTORY_ASKED.format(name=" or ".join(sorted({one.request.criterion.name for one in request.plan})))
    if report.before.accuracy is None:
        yield "There was no data left to judge accuracy with: send an evaluation file or more calibration samples."
    elif request.repeat > 1 and not report.data.fit_samples:
        yield "The seeds split no data: only what is drawn at random differs from one to the next."
    if isinstance(request, CompareRequest):
        used = {one.request.criterion.name: one.request.compensation for one in request.plan}
        if len(set(used.values())) > 1:
            how = ", ".join(f"{name}: {compensation}" for name, compensation in used.items())
            yield (
                f"The criteria differ in compensation too ({how}). To compare the choice of units alone, set "
                "base.compensation."
            )


def _added_up(timings: Sequence[StageTiming]) -> tuple[StageTiming, ...]:
    seconds: dict[str, float] = {}
    for one in timings:
        seconds[one.stage] = seconds.get(one.stage, 0.0) + one.seconds
    return tuple(StageTiming(stage=stage, seconds=spent) for stage, spent in seconds.items())


def _source(bench: Bench) -> SweepSource:
    inputs = bench.inputs
    return SweepSource(
        model_sha256=inputs.model.sha256,
        external_sha256={location: file.sha256 for location, file in inputs.external.items()},
        calibration_sha256=inputs.calibration.sha256 if inputs.calibration else None,
        evaluation_sha256=inputs.evaluation.sha256 if inputs.evaluation else None,
        device=bench.ready.device,
        threads=bench.limits.threads,
        versions=VERSIONS,
    )


def _write(bench: Bench, report: SweepReport) -> None:
    add_file(bench.workdir, "curve.csv").write_text(curve_table(report), encoding="utf-8")
    for name, drawings in (("curve.svg", curves(report)), ("surface.svg", surfaces(report))):
        if drawings:
            add_file(bench.workdir, name).write_text(sheet(drawings), encoding="utf-8")
    (bench.workdir / "report.json").write_text(report.model_dump_json(by_alias=True, indent=1), encoding="utf-8")
    (bench.workdir / "report.html").write_text(render_sweep_html(report), encoding="utf-8")
    (bench.workdir / "report.md").write_text(render_sweep_markdown(report), encoding="utf-8")
