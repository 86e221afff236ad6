"""What the stages found becomes the report.

In: the subject, the work done to it, the measurements. Out: `Report`. Nothing is measured here but bytes, and nothing
is decided.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from math import prod

import numpy as np
import onnx

from schemas.report import (
    DataUse,
    GroupChange,
    LayerChange,
    Pair,
    Provenance,
    Refit,
    Refusal,
    Report,
    Score,
    SearchReport,
    Side,
    StageTiming,
    Unfitted,
)
from worker.engine import arena, cost, devices
from worker.engine.axes import Group
from worker.engine.cautions import cautions
from worker.engine.compensate import Done
from worker.engine.coverage import coverage, refusals
from worker.engine.external import tensors
from worker.engine.load import gzip_bytes, sha256
from worker.engine.ops.rule import ShapeOf
from worker.engine.quantised import along, held_as_integers
from worker.engine.select import in_scope
from worker.engine.stages import Judged, Subject, Work
from worker.engine.surgery import to_proto
from worker.engine.verdict import verdict

PACKAGES = ("espalier", "torch", "onnx", "onnx-ir", "onnxruntime", "numpy", "scipy")
# Read at import: a confined job can no longer read what the packages say of themselves.
VERSIONS = {name: version(name) for name in PACKAGES}
BYTE = np.dtype(np.int8)
ROUNDING = ("QuantizeLinear", "DequantizeLinear")
FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16,
)


def assemble(
    subject: Subject,
    work: Work,
    judged: Judged,
    use: DataUse,
    timings: tuple[StageTiming, ...],
    threads: int,
    found: SearchReport | None = None,
) -> Report:
    """The whole report of one job."""
    ties = subject.analysis.ties
    lost = cost.axes_gone(subject.groups, {name: len(units) for name, units in work.gone.items()})
    whole, after = cost.shapes_after(ties.seen, {}), cost.shapes_after(ties.seen, lost)
    result = to_proto(work.model)
    counted = _nonzero(subject, result)
    final = onnx.load(work.artifact) if work.quantized else result
    held = _nonzero(subject, final) if work.quantized else counted
    scales = _added_scales(result, final) if work.quantized else frozenset()
    nonzero = [count for name, count in held.items() if name not in scales]
    sides = (_before(subject, judged, whole), _after(subject, work, judged, after, final, nonzero, scales))
    where = devices.devices(subject.request.target, subject.graph, *sides, quantized=work.quantized)
    if subject.request.verify_on is not None:
        where = where.model_copy(update={"compiled": devices.unfinished(subject.request.verify_on)})
    return Report(
        options=subject.request,
        verdict=verdict(subject.request.constraints, *sides, where.target),
        before=sides[0],
        after=sides[1],
        exactness=judged.proof,
        devices=where,
        search=found,
        steps=judged.steps,
        storage=judged.storage,
        layers=tuple(_layers(subject, counted, whole, after)),
        groups=tuple(_groups(subject, work)),
        refits=tuple(_refits(subject, work)),
        unfitted=tuple(_unfitted(subject, work)),
        refusals=tuple(_refusals(subject, work)),
        coverage=coverage(subject.graph, subject.analysis),
        data=use,
        warnings=tuple(cautions(subject, work, judged, found)),
        timings=timings,
        provenance=_provenance(subject, work, threads),
    )


def _before(subject: Subject, judged: Judged, shapes: ShapeOf) -> Side:
    loaded = subject.loaded
    nonzero = _nonzero(subject, loaded.proto).values()
    sizes = (loaded.file_bytes, loaded.gzip_bytes)
    return _side(subject, loaded.proto, nonzero, shapes, sizes, judged.latency_before_ms, judged.before)


def _after(
    subject: Subject,
    work: Work,
    judged: Judged,
    shapes: ShapeOf,
    final: onnx.ModelProto,
    nonzero: Iterable[int],
    scales: frozenset[str],
) -> Side:
    files = work.files()
    sizes = (sum(path.stat().st_size for path in files), sum(map(gzip_bytes, files)))
    latency, score = judged.latency_after_ms, judged.after
    return _side(subject, final, nonzero, shapes, sizes, latency, score, scales, eight_bits=work.quantized)


def _side(
    subject: Subject,
    proto: onnx.ModelProto,
    nonzero: Iterable[int],
    shapes: ShapeOf,
    sizes: tuple[int, int],
    latency_ms: float,
    score: Score | None,
    scales: frozenset[str] = frozenset(),
    eight_bits: bool = False,
) -> Side:
    """`scales` are no parameters. `eight_bits`: activations take a byte each where the model is deployed, whatever it
    was seen to compute in."""
    seen = subject.analysis.ties.seen
    if eight_bits:
        seen = replace(seen, dtypes={name: BYTE if dtype.kind == "f" else dtype for name, dtype in seen.dtypes.items()})
    return Side(
        parameters=sum(prod(one.dims) for one in _held(proto) if one.name not in scales),
        nonzero_parameters=sum(nonzero),
        macs=sum(cost.macs_by_op(subject.graph, shapes).values()),
        file_bytes=sizes[0],
        gzip_bytes=sizes[1],
        flash_bytes=sum(map(_held_bytes, tensors(proto))),
        peak_ram_bytes=arena.peak_ram_bytes(subject.graph, seen, shapes),
        latency_ms=latency_ms,
        accuracy=score,
    )


def _added_scales(before: onnx.ModelProto, after: onnx.ModelProto) -> frozenset[str]:
    """What rounding multiplies by, where the model did not have it before."""
    known = {one.name for one in before.graph.initializer}
    return frozenset(node.input[1] for node in after.graph.node if node.op_type in ROUNDING) - known


def _held(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Real numbers, and integers that stand for them."""
    quantised = held_as_integers(proto.graph.node)
    return [one for one in tensors(proto) if one.data_type in FLOATS or one.name in quantised]


def _nonzero(subject: Subject, proto: onnx.ModelProto) -> dict[int | str, int]:
    """By name how many of its numbers are not zero: of integers, not what stands for zero. A tensor whose name stands
    for another one elsewhere (in a subgraph) is counted under a number."""
    shelf = subject.loaded.shelf
    known = {one.name: one for one in proto.graph.initializer}
    quantised = held_as_integers(proto.graph.node)
    found: dict[int | str, int] = {}
    for number, one in enumerate(_held(proto)):
        array = shelf.array(one)
        zero, axis, block = quantised.get(one.name, ("", 0, 1))
        if zero in known:
            array = array != along(shelf.array(known[zero]), axis, array.ndim, block)
        found[number if one.name in found else one.name] = int(np.count_nonzero(array))
    shelf.release()  # before the other side's
    return found


def _held_bytes(tensor: onnx.TensorProto) -> int:
    return cost.packed_bytes(prod(tensor.dims), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _layers(
    subject: Subject, counted: Mapping[int | str, int], whole: ShapeOf, after: ShapeOf
) -> Iterator[LayerChange]:
    graph = subject.graph

    def nonzero(name: str) -> int:
        return counted[name if name in counted else subject.loaded.copies[name]]

    before, then = cost.macs_by_op(graph, whole), cost.macs_by_op(graph, after)
    for layer in subject.analysis.layers:
        names = layer.constants(graph)
        yield LayerChange(
            name=layer.name,
            op_type=layer.op.key,
            units_before=whole(layer.weight)[layer.axis] // layer.parts,
            units_after=after(layer.weight)[layer.axis] // layer.parts,
            parameters_before=cost.parameters(graph, whole, names),
            parameters_after=cost.parameters(graph, after, names),
            nonzero_after=sum(nonzero(name) for name in names if cost.is_parameter(graph, name)),
            macs_before=before.get(layer.op.index, 0),
            macs_after=then.get(layer.op.index, 0),
        )


def _groups(subject: Subject, work: Work) -> Iterator[GroupChange]:
    for group in subject.groups:
        if group.name in work.gone:
            lossy = group.lossy(subject.analysis.ties)
            yield _group(group, work.gone[group.name], work.done[group.name], lossy)


def _group(group: Group, gone: tuple[int, ...], done: tuple[Done, ...], lossy: bool) -> GroupChange:
    pairs = tuple(
        Pair(removed=one.step.unit, partner=one.partner, angle_deg=one.angle_deg, action=one.action)
        for one in done
        if one.partner is not None and one.angle_deg is not None
    )
    return GroupChange(
        name=group.name,
        layers=tuple(dict.fromkeys(layer.name for layer in group.layers)),
        consumers=group.readers,
        units_before=group.units,
        units_after=group.units - len(gone),
        removed=gone,
        lossy=lossy,
        dead=tuple(sorted(one.step.unit for one in done if one.step.why == "dead")),
        pairs=pairs,
    )


def _refits(subject: Subject, work: Work) -> Iterator[Refit]:
    names = {layer.op.index: layer.name for layer in subject.analysis.layers}
    for one in work.refits:
        op = one.reading.op
        yield Refit(
            layer=names.get(op.index, op.name),
            op_type=op.key,
            inputs_before=one.inputs,
            inputs_after=one.kept,
            error_before=one.before,
            error_after=one.after,
            ridge=one.ridge,
        )


def _unfitted(subject: Subject, work: Work) -> Iterator[Unfitted]:
    names = {layer.op.index: layer.name for layer in subject.analysis.layers}
    for one in work.unfitted:
        yield Unfitted(layer=names.get(one.op.index, one.op.name), op_type=one.op.key, reason=one.reason)


def _refusals(subject: Subject, work: Work) -> Iterator[Refusal]:
    graph, shapes = subject.graph, cost.shapes_after(subject.analysis.ties.seen, {})
    if subject.request.criterion.prunes_weights():
        for layer in subject.analysis.layers:
            size = cost.parameters(graph, shapes, layer.constants(graph))
            if not in_scope(subject.request.scope, layer):
                yield Refusal(where=layer.name, reason="scope", message="not in scope", parameters=size)
            elif layer.name in work.passed:
                message = work.passed[layer.name]
                yield Refusal(where=layer.name, reason="criterion_not_applicable", message=message, parameters=size)
        return
    yield from refusals(graph, subject.analysis, {group.name for group in subject.groups})
    for group in subject.groups:
        if group.name in work.passed:
            size = sum(cost.parameters(graph, shapes, layer.constants(graph)) for layer in group.layers)
            message = work.passed[group.name]
            yield Refusal(where=group.name, reason="criterion_not_applicable", message=message, parameters=size)


def _provenance(subject: Subject, work: Work, threads: int) -> Provenance:
    inputs = subject.inputs
    return Provenance(
        model_sha256=inputs.model.sha256,
        external_sha256={location: file.sha256 for location, file in inputs.external.items()},
        calibration_sha256=inputs.calibration.sha256 if inputs.calibration else None,
        evaluation_sha256=inputs.evaluation.sha256 if inputs.evaluation else None,
        history_sha256=inputs.history.sha256 if inputs.history else None,
        artifact_sha256=sha256(work.artifact),
        artifact_external_sha256={work.weights.name: sha256(work.weights)} if work.weights else {},
        seed=subject.request.seed,
        device=subject.device,
        threads=threads,
        versions=VERSIONS,
    )
