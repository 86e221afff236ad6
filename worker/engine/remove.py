"""One point of the way from nothing to everything: what a request takes is chosen, made up for and cut.

In: the subject, the evidence on its groups, the samples. Out: `Work`: the cut model and what was done to it. Refused:
amounts that cannot be reached, and whatever a criterion or a compensation refuses.
"""

from collections.abc import Mapping
from functools import cache

from schemas.criteria import Distinctiveness
from schemas.errors import EspalierError
from schemas.request import PruneRequest
from worker.engine import cost, evaluate, surgery
from worker.engine.budget import Quantities
from worker.engine.compensate import Done, compensate, dropped_where_nothing_took_over, refitted
from worker.engine.criteria import passed_over, ranking
from worker.engine.criteria.evidence import Centre, Evidence, Step
from worker.engine.data import Samples, Split
from worker.engine.execute import Executor
from worker.engine.finish import PRUNED, write_model
from worker.engine.graph import Array
from worker.engine.inputs import LayerInputs, layer_inputs
from worker.engine.likeness import CHOICES
from worker.engine.measure import output_infos
from worker.engine.observe import batches
from worker.engine.refit.consumers import consumers
from worker.engine.refit.readings import new_biases, readings
from worker.engine.refit.reconstruct import Material, Rebuilt, Unfitted, judged, reconstruct
from worker.engine.refit.walk import Refit
from worker.engine.select import choose, in_scope
from worker.engine.sparsify import Clues, Sparsified, sparsify
from worker.engine.stages import Stages, Subject, Work


def remove(subject: Subject, evidence: Mapping[str, Evidence], data: Split, stage: Stages) -> Work:
    """One point of the way from nothing to everything: what the request takes is chosen and cut."""
    with stage("select", "choosing what goes"):
        passed = passed_over(subject.request.criterion, evidence)
        taken = _select(subject, evidence, passed)
    with stage("cut", "removing it"):
        return _cut(subject, taken, evidence, passed, data, stage)


def _select(
    subject: Subject, evidence: Mapping[str, Evidence], passed: Mapping[str, str]
) -> dict[str, tuple[Step, ...]]:
    request = subject.request
    if request.criterion.prunes_weights():
        return {}

    groups = [group for group in subject.groups if group.name not in passed]
    chosen = choose(request, ranking(request.criterion), groups, evidence, quantities(subject), subject.loaded.shelf)
    return {group.name: chosen.get(group.name, ()) for group in subject.groups}


def _cut(
    subject: Subject,
    taken: Mapping[str, tuple[Step, ...]],
    evidence: Mapping[str, Evidence],
    passed: Mapping[str, str],
    data: Split,
    stage: Stages,
) -> Work:
    """Compensate on full width, then cut a clone. Unstructured criteria zero weights and cut nothing."""
    request, graph, ties, shelf = subject.request, subject.graph, subject.analysis.ties, subject.loaded.shelf
    done: Mapping[str, tuple[Done, ...]] = {}
    changed: Mapping[str, Array]
    refits: tuple[Refit, ...] = ()
    unfitted: tuple[Unfitted, ...] = ()
    if request.criterion.prunes_weights():
        thinned = _thin(subject, data, stage)
        changed, passed = thinned.changed, thinned.passed
    elif request.compensation == "reconstruct":
        rebuilt = _rebuild(subject, taken, data, stage)
        changed, taken, refits, unfitted = rebuilt.changed, rebuilt.taken, rebuilt.refits, rebuilt.unfitted
        done = {name: refitted(steps) for name, steps in taken.items()}
    else:
        changed, done = compensate(
            request.compensation, _centre(request), graph, subject.groups, taken, evidence, shelf
        )
        if request.compensation == "project" and changed:
            rebuilt = _judge(subject, taken, changed, data, stage)
            changed, refits, unfitted = rebuilt.changed, rebuilt.refits, rebuilt.unfitted
            done = dropped_where_nothing_took_over(subject.groups, done, changed)
    changed = {name: shelf.keep(array) for name, array in changed.items()}
    gone = {name: tuple(sorted(step.unit for step in steps)) for name, steps in taken.items()}
    lost = cost.axes_gone(subject.groups, {name: len(units) for name, units in gone.items()})
    after = cost.shapes_after(ties.seen, lost)
    model = surgery.cut(subject.loaded.model, ties, changed, surgery.indices_gone(subject.groups, gone), after, shelf)
    surgery.share_again(model, subject.loaded.copies)
    surgery.stamp(model, request, subject.inputs.model.sha256)
    return Work(changed, gone, done, passed, refits, unfitted, model, *write_model(model, subject, PRUNED))


def _rebuild(subject: Subject, taken: Mapping[str, tuple[Step, ...]], data: Split, stage: Stages) -> Rebuilt:
    graph, ties = subject.graph, subject.analysis.ties
    on_the_way = subject.request.criterion.watches_readers()
    found = consumers(graph, ties.seen, subject.groups)
    return reconstruct(ties, subject.groups, found, _material(subject, data, stage), taken, on_the_way)


def _judge(
    subject: Subject,
    taken: Mapping[str, tuple[Step, ...]],
    changed: Mapping[str, Array],
    data: Split,
    stage: Stages,
) -> Rebuilt:
    """Which consumers keep what was projected onto them."""
    ties = subject.analysis.ties
    found = consumers(subject.graph, ties.seen, subject.groups)
    return judged(ties, subject.groups, found, _material(subject, data, stage), taken, changed, veto=True)


def _material(subject: Subject, data: Split, stage: Stages) -> Material:
    """The samples to walk with."""
    graph = subject.graph
    assert data.fit is not None, "reading the data has refused a request without any"

    def some(samples: Samples | None) -> list[Mapping[str, Array]]:
        return [] if samples is None else list(batches(graph, samples, stage.within))

    count = data.fit.count + (data.held_back.count if data.held_back is not None else 0)
    seed, shelf = subject.request.seed, subject.loaded.shelf
    return Material(
        some(data.fit),
        some(data.held_back),
        subject.device,
        seed,
        count,
        shelf,
        scores_known(subject, data),
        subject.request.effort == "thorough",
    )


def scores_known(subject: Subject, data: Split) -> frozenset[str]:
    """What holds scores of classes, as far as that is known: a choice among them stands at the end, or labels say so.
    Of the labels nothing else is looked at."""
    graph, shapes, found = subject.graph, subject.analysis.ties.seen.shapes, set[str]()
    for port in graph.outputs:
        maker = graph.producer.get(port.name)
        if maker is not None and maker.key in CHOICES:
            axis = maker.integer("axis", 0 if maker.key == "ArgMax" else -1)
            found |= {maker.inputs[0]} if axis in (-1, 1) else set()
    sets = (data.evaluation, data.fit)
    labels = next((one.labels for one in sets if one is not None and one.labels is not None), None)
    if labels is not None:
        try:
            task = evaluate.resolve_task(subject.request.evaluation, output_infos(subject), labels)
        except EspalierError:  # who measures refuses it, in the place for that
            return frozenset()
        if task.kind == "classification" and task.class_axis == 1 and task.link == "logits":
            found.add(task.output)
    flat = len(("samples", "classes"))
    return frozenset(name for name in found if len(shapes.get(name, ())) == flat and not graph.sample_axes.get(name))


def _thin(subject: Subject, data: Split, stage: Stages) -> Sparsified:
    """Single weights: ranked by themselves, by the training's history, or by what their layers read."""
    request, graph, seen = subject.request, subject.graph, subject.analysis.ties.seen
    layers = [layer for layer in subject.analysis.layers if in_scope(request.scope, layer)]
    asked = request.criterion.reads_inputs()
    inputs: dict[str, LayerInputs] = {}
    if asked and data.fit is not None:
        parts = batches(graph, data.fit, stage.within)
        executor = Executor(graph, subject.device)
        inputs = layer_inputs(
            executor, layers, seen, parts, with_gram=asked == "grams", seed=request.seed, shelf=subject.loaded.shelf
        )
    return sparsify(request, graph, layers, Clues(subject.sensitivities, inputs), subject.loaded.shelf)


def _centre(request: PruneRequest) -> Centre:
    """Which centring angles and projections use; criteria without one take the range's middle."""
    return request.criterion.centre if isinstance(request.criterion, Distinctiveness) else "auto"


def quantities(subject: Subject) -> Quantities:
    """What the model takes, as budgets count it."""
    graph, seen, loaded = subject.graph, subject.analysis.ties.seen, subject.loaded
    whole = cost.shapes_after(seen, {})

    @cache
    def milliseconds() -> Mapping[int, float]:
        proto = surgery.to_proto(loaded.model)
        for node, op in zip(proto.graph.node, graph.ops, strict=True):
            node.name = f"{op.index}"
        found = evaluate.milliseconds_by_node(loaded.shelf.save(proto, "noted.onnx"), subject.sample, subject.folder)
        return {int(name): part for name, part in found.items() if name.isdecimal()}

    overhead = max(loaded.file_bytes - cost.flash_bytes(graph, whole), 0)
    rebuilt = subject.request.compensation == "reconstruct"
    biases = new_biases(readings(graph, seen, subject.groups)) if rebuilt else ()
    return Quantities(graph, seen, subject.groups, overhead, milliseconds, subject.request.quantize is not None, biases)
