"""One inspection, from files to files: load, read, analyse, and say what could go and what stays and why.

In: a request and the paths of its inputs. Out: `Inspection`, and in the work folder report.json, report.html and
report.md. Refused: whatever loading and analysing refuse. A model in which nothing can go is no failure here.
"""

from collections.abc import Iterator
from pathlib import Path

from schemas.inspect_request import InspectRequest
from schemas.inspection import (
    FallbackOperator,
    InspectedGroup,
    InspectedLayer,
    InspectedModel,
    Inspection,
    InspectionSource,
)
from schemas.job import Progress
from worker.engine import arena, cost
from worker.engine.axes import Group, analyse
from worker.engine.coverage import coverage, refusals, untouched
from worker.engine.prepare import Prepared, prepare
from worker.engine.render import render_inspection_html, render_inspection_markdown
from worker.engine.report import VERSIONS
from worker.engine.select import group_in_scope
from worker.engine.shelf import Shelf
from worker.engine.stages import Emit, Inputs, Limits, Stages


def inspect(request: InspectRequest, inputs: Inputs, workdir: Path, limits: Limits, emit: Emit) -> Inspection:
    """Look at the model and leave the three files in the work folder."""
    with Shelf.inside(workdir) as shelf:
        stage = Stages(emit, shelf.release)
        ready = prepare(request, inputs, workdir, limits, stage, shelf)
        with stage("report", "writing the report"):
            found = _assemble(request, inputs, ready, stage)
            (workdir / "report.json").write_text(found.model_dump_json(by_alias=True, indent=1), encoding="utf-8")
            (workdir / "report.html").write_text(render_inspection_html(found), encoding="utf-8")
            (workdir / "report.md").write_text(render_inspection_markdown(found), encoding="utf-8")
    emit(Progress(stage="report", fraction=1.0, message="done"))
    return found


def _assemble(request: InspectRequest, inputs: Inputs, ready: Prepared, stage: Stages) -> Inspection:
    graph, analysis = ready.graph, ready.analysis
    chosen = {group.name for group in analysis.groups if group_in_scope(request.scope, group)}
    return Inspection(
        options=request,
        model=_model(inputs, ready),
        layers=tuple(_layers(ready)),
        groups=tuple(_groups(ready, chosen)),
        pins=tuple(refusals(graph, analysis, chosen, _opened_by_lossy(ready))),
        coverage=coverage(graph, analysis),
        untouched=untouched(graph, analysis),
        fallback=tuple(_fallback(ready)),
        shapes_from="calibration" if inputs.calibration else "noise",
        open_size=ready.open_size,
        timings=tuple(stage.timings),
        source=InspectionSource(
            model_sha256=inputs.model.sha256,
            external_sha256={location: file.sha256 for location, file in inputs.external.items()},
            calibration_sha256=inputs.calibration.sha256 if inputs.calibration else None,
            versions=VERSIONS,
        ),
    )


def _model(inputs: Inputs, ready: Prepared) -> InspectedModel:
    graph, seen = ready.graph, ready.analysis.ties.seen
    shapes = cost.shapes_after(seen, {})
    whole = cost.cost(graph, shapes)
    return InspectedModel(
        name=inputs.model.name,
        parameters=whole.parameters,
        macs=whole.macs,
        file_bytes=ready.loaded.file_bytes,
        flash_bytes=cost.flash_bytes(graph, shapes),
        peak_ram_bytes=arena.peak_ram_bytes(graph, seen, shapes),
        operators=len(graph.ops),
        opset=graph.opsets.get("", 0),
    )


def _opened_by_lossy(ready: Prepared) -> set[str]:
    """The layers whose units stay, and would be free if statistics over them were no reason."""
    ties = ready.analysis.ties
    if ties.lossy or not ties.statistics:
        return set()
    freer = analyse(ready.graph, ties.seen, lossy=True)
    return {stay.layer.name for stay in ready.analysis.stays} - {stay.layer.name for stay in freer.stays}


def _layers(ready: Prepared) -> Iterator[InspectedLayer]:
    graph, analysis = ready.graph, ready.analysis
    shapes = cost.shapes_after(analysis.ties.seen, {})
    macs = cost.macs_by_op(graph, shapes)
    stays = {stay.layer.name for stay in analysis.stays}
    for layer in analysis.layers:
        yield InspectedLayer(
            name=layer.name,
            op_type=layer.op.key,
            units=shapes(layer.weight)[layer.axis],
            parameters=cost.parameters(graph, shapes, layer.constants(graph)),
            macs=macs.get(layer.op.index, 0),
            prunable=layer.name not in stays,
        )


def _groups(ready: Prepared, chosen: set[str]) -> Iterator[InspectedGroup]:
    graph, seen, groups = ready.graph, ready.analysis.ties.seen, ready.analysis.groups
    shapes = cost.shapes_after(seen, {})
    whole = cost.cost(graph, shapes)
    for group in groups:
        less = cost.cost(graph, cost.shapes_after(seen, cost.axes_gone(groups, {group.name: 1})))
        yield InspectedGroup(
            name=group.name,
            units=group.units,
            layers=tuple(dict.fromkeys(layer.name for layer in group.layers)),
            op_types=tuple(dict.fromkeys(layer.op.key for layer in group.layers)),
            consumers=group.readers,
            parameters=cost.parameters(graph, shapes, _constants(ready, group)),
            parameters_per_unit=whole.parameters - less.parameters,
            macs_per_unit=whole.macs - less.macs,
            in_scope=group.name in chosen,
            lossy=group.lossy(ready.analysis.ties),
        )


def _constants(ready: Prepared, group: Group) -> set[str]:
    return {name for name, _ in group.sites if name in ready.graph.constants}


def _fallback(ready: Prepared) -> Iterator[FallbackOperator]:
    found: dict[str, list[str]] = {}
    for op in ready.executor.in_onnxruntime():
        found.setdefault(op.key, []).append(op.name)
    for key, names in found.items():
        yield FallbackOperator(operator=key, nodes=len(names), example=names[0])
