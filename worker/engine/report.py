"""What the stages found becomes the report.

In: the subject, the work done to it, the measurements. Out: `Report`. Nothing is measured here but bytes, and nothing
is decided but the verdict on the caller's constraints.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from math import prod

import numpy as np
import onnx

from schemas.criteria import Distinctiveness
from schemas.device import TargetFit
from schemas.job import Verdict
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
from schemas.request import Constraints
from worker.engine import arena, cost, devices
from worker.engine.axes import Group
from worker.engine.chance import draws
from worker.engine.compensate import Done
from worker.engine.coverage import coverage, refusals
from worker.engine.external import tensors
from worker.engine.load import gzip_bytes, sha256
from worker.engine.ops.rule import ShapeOf
from worker.engine.quantised import along, held_as_integers
from worker.engine.select import in_scope
from worker.engine.stages import Judged, Subject, Work
from worker.engine.surgery import to_proto

PACKAGES = ("espalier", "torch", "onnx", "onnx-ir", "onnxruntime", "numpy", "scipy")
# Read at import: a confined job can no longer read what the packages say of themselves.
VERSIONS = {name: version(name) for name in PACKAGES}
NOTHING_BEYOND = "Nothing was removed: no unit lies beyond the threshold. Widen it, or give an amount instead."
NOTHING_NEEDED = (
    "Nothing was removed: the model fits as it is. To remove what the accuracy can spare, set "
    "constraints.max_accuracy_drop or constraints.min_accuracy."
)
NOTHING_FOUND = "Nothing was removed: whatever may go costs more accuracy than the constraints allow."
BYTE = np.dtype(np.int8)
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
    loaded = subject.loaded
    result = to_proto(work.model)
    counted = _nonzero(subject, result)
    final = onnx.load(work.artifact) if work.quantized else result
    sides = (
        _side(
            subject,
            loaded.proto,
            _nonzero(subject, loaded.proto).values(),
            whole,
            (loaded.file_bytes, loaded.gzip_bytes),
            judged.latency_before_ms,
            judged.before,
        ),
        _side(
            subject,
            final,
            (_nonzero(subject, final) if work.quantized else counted).values(),
            after,
            (sum(path.stat().st_size for path in work.files()), sum(map(gzip_bytes, work.files()))),
            judged.latency_after_ms,
            judged.after,
            eight_bits=work.quantized,
        ),
    )
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
        warnings=tuple(_warnings(subject, work, judged)),
        timings=timings,
        provenance=_provenance(subject, work, threads),
    )


def _side(
    subject: Subject,
    proto: onnx.ModelProto,
    nonzero: Iterable[int],
    shapes: ShapeOf,
    sizes: tuple[int, int],
    latency_ms: float,
    score: Score | None,
    eight_bits: bool = False,
) -> Side:
    """`eight_bits`: activations take a byte each where the model is deployed, whatever it was seen to compute in."""
    seen = subject.analysis.ties.seen
    if eight_bits:
        seen = replace(seen, dtypes={name: BYTE if dtype.kind == "f" else dtype for name, dtype in seen.dtypes.items()})
    return Side(
        parameters=sum(prod(one.dims) for one in _held(proto)),
        nonzero_parameters=sum(nonzero),
        macs=sum(cost.macs_by_op(subject.graph, shapes).values()),
        file_bytes=sizes[0],
        gzip_bytes=sizes[1],
        flash_bytes=sum(map(_held_bytes, tensors(proto))),
        peak_ram_bytes=arena.peak_ram_bytes(subject.graph, seen, shapes),
        latency_ms=latency_ms,
        accuracy=score,
    )


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


def _warnings(subject: Subject, work: Work, judged: Judged) -> Iterator[str]:
    request = subject.request
    weights = request.criterion.prunes_weights()
    if not weights and not any(work.gone.values()):
        asked = request.constraints
        needed = asked.max_accuracy_drop is not None or asked.min_accuracy is not None
        found = NOTHING_FOUND if needed else NOTHING_NEEDED
        yield found if request.amount.kind == "search" else NOTHING_BEYOND
    elif weights and not work.changed:
        yield "Nothing was removed: no weight lies below the threshold."
    elif weights:
        yield (
            "Zeros are not speed: onnxruntime and most devices multiply by them as by any other number. What shrinks "
            "is the compressed file; remove units to make the network itself smaller and faster."
        )
    elif not judged.proof.mask_has_effect:
        yield "The removed units had no effect on the outputs for these samples: they were dead."
    if judged.proof.over_kept:
        yield (
            f"Lossy: {len(judged.proof.over_kept)} operators take their statistics over the units that stay "
            f"({', '.join(judged.proof.over_kept[:3])}{', ...' if len(judged.proof.over_kept) > 3 else ''}). The file "
            "computes exactly that, which is not what the original computes with the removed units masked."
        )
    drawing = [op.label() for op in subject.graph.ops if draws(op)]
    if drawing:
        yield (
            f"The model draws random numbers ({', '.join(drawing[:3])}{', ...' if len(drawing) > 3 else ''}): for the "
            "proof both files drew the same; accuracies and fidelity differ from run to run."
        )
    if judged.unjudged:
        yield f"Accuracy was not judged: {judged.unjudged}. Choose another output with evaluation.output."
    elif judged.before is None:
        yield "There was no data left to judge accuracy with: send an evaluation file or more calibration samples."
    half = isinstance(request.criterion, Distinctiveness) and request.criterion.centre == "half"
    if half and request.criterion.needs_data():
        yield "centre: half subtracts nothing where an activation has no finite range (ReLU)."


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


def verdict(constraints: Constraints, before: Side, after: Side, target: TargetFit | None) -> Verdict:
    """Whether each constraint that was given holds, and by how much it does not."""
    limits = (
        ("max_file_bytes", constraints.max_file_bytes, after.file_bytes),
        ("max_parameters", constraints.max_parameters, after.parameters),
        ("max_macs", constraints.max_macs, after.macs),
        ("max_peak_ram_bytes", constraints.max_peak_ram_bytes, after.peak_ram_bytes),
    )
    broken = [
        f"{name}: {got:,} is more than {limit:,}" for name, limit, got in limits if limit is not None and got > limit
    ]
    if constraints.max_latency_ms is not None:
        estimate = None if target is None else target.after.milliseconds
        took = after.latency_ms if estimate is None else estimate
        where = "measured" if target is None else f"estimated for {target.device}"
        if took > constraints.max_latency_ms:
            broken.append(f"max_latency_ms: {took:,.6g}, {where}, is more than {constraints.max_latency_ms:,}")
    drop, least = constraints.max_accuracy_drop, constraints.min_accuracy
    if drop is not None or least is not None:
        if before.accuracy is None or after.accuracy is None:
            broken.append("accuracy: there was no data to judge it with")
        else:
            fall = before.accuracy.score - after.accuracy.score
            if drop is not None and fall > drop:
                broken.append(f"max_accuracy_drop: {fall:.4f} is more than {drop:g}")
            if least is not None and after.accuracy.score < least:
                broken.append(f"min_accuracy: {after.accuracy.score:.4f} is less than {least:g}")
    if constraints.fits_target:
        assert target is not None, "the request's validator asks for one"
        broken += [f"fits_target: {target.device}: {why}" for why in target.after.why]
        broken += [
            f"fits_target: {target.device} does not run {one.operator}: {one.reason}"
            for one in target.operators
            if not one.supported
        ]
    return Verdict(met=not broken, broken=tuple(broken))
