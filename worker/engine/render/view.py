"""What both renderings show, worked out once from the report.

In: a `Report`. Out: `View`: sentences, measures, rows.
"""

from dataclasses import dataclass

from schemas.report import Refit, Report, Unfitted
from worker.engine.render import numbers
from worker.engine.render.devices import (
    CompiledView,
    DeviceRow,
    TargetView,
    compiled_view,
    device_rows,
    target_view,
)
from worker.engine.render.measures import Measure, measures
from worker.engine.render.rows import (
    CLASSES_SHOWN,
    ClassRow,
    GroupRow,
    Heat,
    LayerRow,
    Reason,
    class_rows,
    group_row,
    heats,
    layer_rows,
    reason_rows,
)
from worker.engine.render.search import SearchRow, search_rows, search_time
from worker.engine.render.steps import StepRow, StorageRow, step_rows, storage_rows

LAYERS_SHOWN = 200
GROUPS_SHOWN = 100
REFITS_SHOWN = 200


@dataclass(frozen=True)
class View:
    report: Report
    title: str
    what: str
    measures: tuple[Measure, ...]
    proof: str
    accuracy: str
    layers: tuple[LayerRow, ...]
    layers_left_out: int
    bars_count: str
    groups: tuple[GroupRow, ...]
    groups_left_out: int
    groups_untouched: int
    classes: tuple[ClassRow, ...]
    classes_left_out: int
    heats: tuple[Heat, ...]
    reasons: tuple[Reason, ...]
    target: TargetView | None
    compiled: CompiledView | None
    devices: tuple[DeviceRow, ...]
    steps: tuple[StepRow, ...]
    storage: tuple[StorageRow, ...]
    search: tuple[SearchRow, ...]
    search_time: str
    refits: tuple[Refit, ...]
    unfitted: tuple[Unfitted, ...]
    seconds: float

    @property
    def headlines(self) -> tuple[Measure, ...]:
        return tuple(measure for measure in self.measures if measure.headline)


def view(report: Report) -> View:
    """Everything that the templates need."""
    unstructured = report.options.criterion.prunes_weights()
    layers = layer_rows(report.layers, unstructured)
    changed = [group for group in report.groups if group.removed]
    classes = class_rows(report.before.accuracy, report.after.accuracy)
    return View(
        report=report,
        title=_title(report),
        what=_what(report),
        measures=measures(report.before, report.after, unstructured),
        proof=_proof(report),
        accuracy=_accuracy(report),
        layers=layers[:LAYERS_SHOWN],
        layers_left_out=max(0, len(layers) - LAYERS_SHOWN),
        bars_count="nonzero weights" if unstructured else "units",
        groups=tuple(group_row(group) for group in changed[:GROUPS_SHOWN]),
        groups_left_out=max(0, len(changed) - GROUPS_SHOWN),
        groups_untouched=len(report.groups) - len(changed),
        classes=classes[:CLASSES_SHOWN],
        classes_left_out=max(0, len(classes) - CLASSES_SHOWN),
        heats=heats(report.before.accuracy, report.after.accuracy),
        reasons=reason_rows(report.refusals),
        target=target_view(report) if report.devices.target else None,
        compiled=compiled_view(report.devices.compiled, report.devices.target) if report.devices.compiled else None,
        devices=device_rows(report.devices),
        steps=step_rows(report),
        storage=storage_rows(report),
        search=search_rows(report),
        search_time=search_time(report),
        refits=report.refits[:REFITS_SHOWN],
        unfitted=report.unfitted[:REFITS_SHOWN],
        seconds=sum(timing.seconds for timing in report.timings),
    )


# ---- sentences


def _title(report: Report) -> str:
    """The outcome in one line: 41.3 % fewer parameters, accuracy down 0.15 points."""
    before, after = report.before.parameters, report.after.parameters
    what = "parameters"
    if before == after:
        before, after, what = report.before.nonzero_parameters, report.after.nonzero_parameters, "nonzero weights"
    title = f"{numbers.percent(1 - after / before, 1)} fewer {what}" if after < before else "Nothing became smaller"
    first, second = report.before.accuracy, report.after.accuracy
    if first is None or second is None:
        return title
    name = numbers.headline_name(second)
    change = numbers.headline_change(first, second)
    if change.startswith("0."):
        return f"{title}, {name if name == 'R²' else name.lower()} unchanged"
    direction = "up" if change.startswith("+") else "down"
    return f"{title}, {name if name == 'R²' else name.lower()} {direction} {change[1:]}"


def _what(report: Report) -> str:
    """What was asked for, in a sentence: the criterion with its parameters, the amount, the compensation."""
    amount = report.options.amount
    how = report.options.criterion.in_words(amount.kind == "threshold")
    asked = [f"{how[0].upper()}{how[1:]}", amount.in_words(), f"compensation {report.options.compensation}"]
    asked += ["then distilled"] if report.options.distill is not None else []
    asked += ["then rounded to eight bits"] if report.options.quantize is not None else []
    return ", ".join(asked)


def _proof(report: Report) -> str:
    found = report.exactness
    figure = "no difference at all"
    if found.max_relative_difference:
        figure = f"a relative difference of at most {found.max_relative_difference:.1e}"
    sentence = (
        f"The pruned file and the uploaded model with the same {_removed_name(report)} masked to zero were both run in "
        f"onnxruntime on {found.samples:,} sample{'' if found.samples == 1 else 's'}: {figure} "
        f"(tolerance {found.tolerance:.0e})."
    )
    if report.options.compensation != "none":
        sentence += " The masked model carries the same compensation."
    if found.over_kept:
        sentence += f" Statistics of {len(found.over_kept)} operators are those of the units that stay, in both."
    if not found.mask_has_effect:
        sentence += " The mask changed no output: what was removed had no influence on these samples."
    if report.steps:
        sentence += (
            " That is the model as it was cut; the steps after the cut change what it computes, as their rows say."
        )
    return sentence.replace("e-0", "e-")


def _removed_name(report: Report) -> str:
    return "weights" if report.options.criterion.prunes_weights() else "units"


def _accuracy(report: Report) -> str:
    before, after = report.before.accuracy, report.after.accuracy
    if before is None or after is None:
        return "There were no samples left to judge with."
    samples = f"{after.samples:,} {'judged answers' if after.task in ('classification', 'binary') else 'samples'}"
    kinds = {
        "classification": "Top-1 accuracy",
        "binary": "Accuracy of yes/no answers",
        "regression": "R squared",
        "fidelity": "Fidelity to the uploaded model (there were no labels)",
    }
    return f"{kinds[after.task]} on {samples} that pruning never saw."
