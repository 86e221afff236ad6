"""What a reader of a report should know before its figures are taken at their word.

In: the subject, the work done to it, the measurements. Out: sentences, each with what to try where something can be
done. Nothing is refused.
"""

from collections.abc import Iterator

from schemas.criteria import Distinctiveness
from schemas.report import SearchReport
from schemas.request import PruneRequest
from worker.engine.chance import draws
from worker.engine.stages import Judged, Subject, Work

NOTHING_BEYOND = "Nothing was removed: no unit lies beyond the threshold. Widen it, or give an amount instead."
NOTHING_NEEDED = (
    "Nothing was removed: the model fits as it is. To remove what the accuracy can spare, set "
    "constraints.max_accuracy_drop or constraints.min_accuracy."
)
NOTHING_FOUND = "Nothing was removed: whatever may go costs more accuracy than the constraints allow."
NO_HISTORY_ASKED = "The history was not used: criterion {name} does not look at it; karnin does."
NOTHING_LOSSY = "lossy changed nothing: {why}."
COLLAPSE = 0.1


def cautions(subject: Subject, work: Work, judged: Judged, search: SearchReport | None = None) -> Iterator[str]:
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
    yield from _unused(subject)
    yield from _collapse(request, judged)
    yield from _overrated(request, judged, search)
    half = isinstance(request.criterion, Distinctiveness) and request.criterion.centre == "half"
    if half and request.criterion.needs_data():
        yield "centre: half subtracts nothing where an activation has no finite range (ReLU)."


def _unused(subject: Subject) -> Iterator[str]:
    """What was sent or asked for, and made no difference."""
    request = subject.request
    if subject.inputs.history is not None and not request.needs_history():
        yield NO_HISTORY_ASKED.format(name=request.criterion.name)
    silent = [name for name in request.criterion.chosen() if name in request.criterion.of_threshold]
    if silent and request.amount.kind != "threshold":
        yield f"criterion.{', criterion.'.join(silent)} had no say: the amount says how much goes."
    if request.lossy and request.criterion.prunes_weights():
        yield NOTHING_LOSSY.format(why="single weights go, and no width with them")
    elif request.lossy and not any(group.lossy(subject.analysis.ties) for group in subject.groups):
        yield NOTHING_LOSSY.format(why="no group in scope has units that an operator takes statistics over")


def _collapse(request: PruneRequest, judged: Judged) -> Iterator[str]:
    """A score that fell far, unless the constraints, and so the verdict, speak of it."""
    before, after, asked = judged.before, judged.after, request.constraints
    if before is None or after is None or asked.max_accuracy_drop is not None or asked.min_accuracy is not None:
        return
    if before.score - after.score > COLLAPSE:
        advice = ["remove less"]
        if request.compensation == "none" and not request.criterion.prunes_weights():
            advice.append("set compensation to reconstruct")
        elif request.criterion.prunes_weights() and request.criterion.name != "sparsegpt":
            advice.append("take criterion sparsegpt, which makes up for what goes")
        elif request.distill is None:
            advice.append("distill what is left")
        yield (
            f"The score fell far: from {before.score:.4f} to {after.score:.4f} on {after.samples:,} samples. "
            f"{', or '.join(advice).capitalize()}; constraints.max_accuracy_drop says how much may be lost."
        )


def _overrated(request: PruneRequest, judged: Judged, found: SearchReport | None) -> Iterator[str]:
    """What a search chose on the samples held back may lose more on those that judge."""
    before, asked = judged.before, request.constraints
    after = judged.steps[0].accuracy if judged.steps else judged.after  # the search knows of the cut alone
    if found is None or not found.by_labels or before is None or after is None:
        return
    there, here = found.points[found.chosen].drop, before.score - after.score
    too_much = asked.max_accuracy_drop is not None and here > asked.max_accuracy_drop
    too_little = asked.min_accuracy is not None and after.score < asked.min_accuracy
    if there is not None and there < here and (too_much or too_little):
        yield (
            f"The search chose what lost {100 * there:.2f} points on {found.samples:,} samples held back; on the "
            f"{after.samples:,} that judge it lost {100 * here:.2f}. The fewer are held back, the less they can tell: "
            "send more calibration samples, or set a smaller max_accuracy_drop than you can bear."
        )
