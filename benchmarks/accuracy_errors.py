"""What compensations are worth to each consumer and to the outputs, for one selection: the part `errors` of the
accuracy benchmark.

Half of the units of every group go, at random, from networks of all kinds with seeded weights, and the weakest units
of every group from real ones. Each compensation walks its own way; errors are mean squares, as shares of what the
uploaded model gives there, on samples that were not fitted on. A fitted consumer is judged when its own turn has come:
one that makes units may afterwards be formed anew for whoever reads these, and then it is that one's error that tells.
In: ESPALIER_DATA (default ../shared/data) for the real ones. Out: tables. Missed: a consumer of a real network is worse
off projected than with nothing, or fitted than projected; either happens to any consumer that is given the same to
read; or the outputs of a fitted network are worse than those of one left alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from benchmarks.accuracy_data import material
from benchmarks.papers.bench import input_file
from benchmarks.subjects import EXPORTED
from schemas.request import PruneRequest
from tests.zoo.models import ZOO, export
from worker.engine import cost, surgery
from worker.engine.compensate import compensate
from worker.engine.criteria import ranking
from worker.engine.criteria.evidence import Step
from worker.engine.graph import Array
from worker.engine.observe import batches
from worker.engine.prepare import Prepared, prepare
from worker.engine.refit.consumers import consumers
from worker.engine.refit.reconstruct import Material, judged, reconstruct
from worker.engine.remove import quantities, scores_known
from worker.engine.run import Inputs, Limits, observe, subject_of, wanted
from worker.engine.select import choose
from worker.engine.shelf import Shelf
from worker.engine.stages import Stages, Subject

SAMPLES = 400
REAL = (
    ("resnet20_cifar10.onnx", "cifar", 0.25),
    ("seeds/cnn_mnist.onnx", "mnist", 0.5),
    ("seeds/mlp100_mnist.onnx", "mnist", 0.5),
    ("seeds/mlp_fashion.onnx", "fashion_mnist", 0.5),
    ("squeezenet_imagenet_fp32.onnx", "imagenet", 0.1),
)
WAYS = ("none", "project", "reconstruct")


@dataclass(frozen=True)
class Compared:
    """`ways`: errors by consumer for each compensation on its own way; `alone`: those of a projection where it was
    judged, before and after; `outputs` of the whole network; `unfitted` consumers."""

    ways: Mapping[str, Mapping[str, float]]
    alone: Sequence[tuple[float, float]]
    fitted: Sequence[tuple[float, float]]
    outputs: Mapping[str, float]
    unfitted: Sequence[str]


def errors(folder: Path, quick: bool, work: Path) -> Iterator[str]:
    """Prints the tables; says what was missed."""
    yield from _made_up(work)
    for model, data, share in REAL[:1] if quick else REAL:
        given = material(folder, data, model, 10, work)
        found = compare(folder / model, given.calibration, "magnitude", share, given.preprocess, work, given.evaluation)
        print(f"\n{model}, the weakest {share:.0%} of every group; errors on held-back samples")
        print(f"{'':40}" + "".join(f"{way:>13}" for way in WAYS))
        for name in found.ways["none"]:
            print(f"{name[:40]:40}" + "".join(f"{found.ways[way][name]:13.6f}" for way in WAYS))
        print(f"{'outputs':40}" + "".join(f"{found.outputs[way]:13.6f}" for way in WAYS), flush=True)
        yield from _missed(model, found, every_row=True)


def _made_up(work: Path) -> Iterator[str]:
    print(f"\nrandom half of every group; error of the outputs on {SAMPLES // 5} held-back samples")
    print(f"{'':20}{'consumers':>10}{'unfitted':>9}" + "".join(f"{way:>13}" for way in WAYS) + f"{'of none':>10}")
    for name, entry in ZOO.items():
        model, calibration = work / f"{name}.onnx", work / f"{name}.npz"
        model.write_bytes(export(name, EXPORTED))
        np.savez(calibration, **{f"in{place}": one for place, one in enumerate(entry.feeds(SAMPLES))})
        found = compare(model, calibration, "random", 0.5, {}, work)
        left = found.outputs["reconstruct"] / max(found.outputs["none"], 1e-30)
        print(
            f"{name:20}{len(found.ways['none']):10}{len(found.unfitted):9}"
            + "".join(f"{found.outputs[way]:13.6f}" for way in WAYS)
            + f"{left:10.3f}",
            flush=True,
        )
        yield from _missed(name, found, every_row=False)


def _missed(name: str, found: Compared, every_row: bool) -> Iterator[str]:
    worse = sum(after > before for before, after in (*found.alone, *found.fitted))
    if every_row:
        for one in found.ways["none"]:
            none, project, fit = (found.ways[way][one] for way in WAYS)
            worse += not fit <= project <= none
    if worse:
        yield f"{name}: {worse} consumers are worse off fitted than projected, or projected than with nothing"
    if found.outputs["reconstruct"] > found.outputs["none"]:
        yield f"{name}: the outputs are worse than with nothing handed over"


def compare(
    model: Path,
    calibration: Path,
    criterion: str,
    share: float,
    preprocess: Mapping[str, object],
    work: Path,
    evaluation: Path | None = None,
) -> Compared:
    """One network, one selection. `evaluation`: of its labels only their kind matters here."""
    options = {"criterion": {"name": criterion}, "amount": {"remove_units": share}, "compensation": "project"}
    request = PruneRequest.model_validate({**options, "preprocess": preprocess})
    inputs = Inputs(input_file(model), {}, input_file(calibration), evaluation and input_file(evaluation))
    stage, limits = Stages(lambda _: None), Limits(torch.get_num_threads(), 1 << 33)
    with Shelf.inside(work) as shelf:
        ready = prepare(request, inputs, work, limits, stage, shelf)
        subject = subject_of(request, inputs, ready)
        evidence = observe(wanted(request), subject, ready.executor, ready.data.fit, stage)
        with stage("select", ""):
            taken = choose(request, ranking(request.criterion), subject.groups, evidence, quantities(subject))
        return _compared(
            subject, ready, taken, compensate("project", "auto", subject.graph, subject.groups, taken, evidence)[0]
        )


def _compared(
    subject: Subject, ready: Prepared, taken: Mapping[str, tuple[Step, ...]], proposals: Mapping[str, Array]
) -> Compared:
    graph, ties, groups = subject.graph, subject.analysis.ties, subject.groups
    found = consumers(graph, ties.seen, groups)
    fit, held = (
        [] if part is None else list(batches(graph, part, lambda _, __: None))
        for part in (ready.data.fit, ready.data.held_back)
    )
    count = sum(part.count for part in (ready.data.fit, ready.data.held_back) if part is not None)
    samples = Material(fit, held, "cpu", 0, count, scores=scores_known(subject, ready.data))
    projected = judged(ties, groups, found, samples, taken, proposals, veto=True)
    rebuilt = reconstruct(ties, groups, found, samples, taken, chosen_on_the_way=False)
    changed = dict(zip(WAYS, ({}, projected.changed, rebuilt.changed), strict=True))
    untouched = judged(ties, groups, found, samples, taken, {}, veto=False)
    walked = dict(zip(WAYS, (untouched, projected, rebuilt), strict=True))
    ways = {way: {one.reading.op.name: one.after for one in done.refits} for way, done in walked.items()}
    return Compared(
        ways,
        [(one.before, one.after) for one in projected.refits],
        [(one.before, one.after) for one in rebuilt.refits],
        {way: _apart(subject, taken, arrays, held or fit) for way, arrays in changed.items()},
        [one.op.name for one in rebuilt.unfitted],
    )


def _apart(
    subject: Subject,
    taken: Mapping[str, tuple[Step, ...]],
    changed: Mapping[str, Array],
    held: Sequence[Mapping[str, Array]],
) -> float:
    """The mean square of the difference at the outputs, as a share, in onnxruntime."""
    gone = {name: tuple(sorted(step.unit for step in steps)) for name, steps in taken.items()}
    lost = cost.axes_gone(subject.groups, {name: len(units) for name, units in gone.items()})
    ties, dense = subject.analysis.ties, subject.loaded.model
    after = cost.shapes_after(ties.seen, lost)
    model = surgery.cut(dense, ties, changed, surgery.indices_gone(subject.groups, gone), after, subject.loaded.shelf)
    wrong = size = 0.0
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 3
    sessions = []
    for number, one in enumerate((dense, model)):
        path = subject.loaded.shelf.save(surgery.to_proto(one), f"{number}.onnx")
        sessions.append(ort.InferenceSession(path, quiet, providers=["CPUExecutionProvider"]))
    for feeds in held:
        for one, other in zip(*(session.run(None, dict(feeds)) for session in sessions), strict=True):
            wrong += float(np.square(np.asarray(one, np.float64) - other).sum())
            size += float(np.square(np.asarray(one, np.float64)).sum())
    return wrong / max(size, 1e-30)
