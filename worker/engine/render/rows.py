"""The lists of a report, cut to a length that people read, each saying how much was left out.

In: layers, groups, scores, refusals. Out: rows for the templates. The JSON report always has everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.report import ClassificationScore, GroupChange, LayerChange, Pair, Refusal, Score
from worker.engine.render import numbers
from worker.engine.render.measures import Tone, tone

PAIRS_SHOWN = 100
REFUSALS_SHOWN = 60
RUNS_SHOWN = 200
CLASSES_SHOWN = 100
CONFUSION_SHOWN = 20


@dataclass(frozen=True)
class LayerRow:
    layer: LayerChange
    kept: float  # share of what the bar counts
    widest: float  # this layer's own size against the largest layer's
    text: str
    parameters: str
    change: str


@dataclass(frozen=True)
class GroupRow:
    group: GroupChange
    summary: str
    removed: str
    dead: str
    pairs: tuple[Pair, ...]
    pairs_left_out: int


@dataclass(frozen=True)
class ClassRow:
    label: int
    samples: int
    before: float | None
    after: float | None
    change: str
    tone: Tone


@dataclass(frozen=True)
class Heat:
    """One confusion matrix as cells (count, share of its row)."""

    title: str
    rows: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True)
class Reason:
    """Refusals that share a reason."""

    reason: str
    refusals: tuple[Refusal, ...]
    left_out: int
    parameters: int


def layer_rows(layers: Sequence[LayerChange], unstructured: bool) -> tuple[LayerRow, ...]:
    def sizes(layer: LayerChange) -> tuple[int, int]:
        if unstructured:
            return layer.parameters_before, layer.nonzero_after
        return layer.units_before, layer.units_after

    largest = max((sizes(layer)[0] for layer in layers), default=0) or 1
    rows = []
    for layer in layers:
        before, after = sizes(layer)
        text = numbers.count(before) if before == after else f"{numbers.count(before)} → {numbers.count(after)}"
        first, second = layer.parameters_before, layer.parameters_after
        parameters = numbers.count(first) if first == second else f"{numbers.count(first)} → {numbers.count(second)}"
        change = "" if before == after else numbers.change(before, after)
        # The square root keeps a layer of 10 units visible beside one of 1,000.
        rows.append(
            LayerRow(layer, after / before if before else 1, (before / largest) ** 0.5, text, parameters, change)
        )
    return tuple(rows)


def group_row(group: GroupChange) -> GroupRow:
    dead = len(group.dead)
    parts = [f"{dead} dead"] if dead else []
    for action in ("merged", "projected", "refitted", "cancelled", "dropped"):
        number = sum(pair.action == action for pair in group.pairs)
        parts += [f"{number} {action}"] if number else []
    others = len(group.removed) - dead - len({pair.removed for pair in group.pairs})
    parts += [f"{others} cut"] if others > 0 else []
    return GroupRow(
        group=group,
        summary=", ".join(parts),
        removed=_indices(group.removed),
        dead=_indices(group.dead),
        pairs=group.pairs[:PAIRS_SHOWN],
        pairs_left_out=max(0, len(group.pairs) - PAIRS_SHOWN),
    )


def _indices(indices: Sequence[int]) -> str:
    """Sorted numbers with runs joined: 1–4, 9, 12–13."""
    runs: list[tuple[int, int]] = []
    for index in sorted(indices):
        if runs and runs[-1][1] == index - 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    texts = [str(a) if a == b else f"{a}–{b}" for a, b in runs[:RUNS_SHOWN]]
    return ", ".join(texts) + (f", and {len(runs) - RUNS_SHOWN:,} more runs" if len(runs) > RUNS_SHOWN else "")


def class_rows(before: Score | None, after: Score | None) -> tuple[ClassRow, ...]:
    """Every class, the ones that lost most first where there are too many to show all."""
    if not isinstance(before, ClassificationScore) or not isinstance(after, ClassificationScore):
        return ()
    rows = []
    for first, second in zip(before.per_class, after.per_class, strict=False):
        gain = (second.accuracy or 0) - (first.accuracy or 0)
        text = "" if second.accuracy is None else numbers.signed(100 * gain, 1)
        rows.append(ClassRow(first.label, first.samples, first.accuracy, second.accuracy, text, tone(gain)))
    if len(rows) > CLASSES_SHOWN:
        rows.sort(key=lambda row: (row.after or 0) - (row.before or 0))
    return tuple(rows)


def heats(before: Score | None, after: Score | None) -> tuple[Heat, ...]:
    heats = []
    for title, score in (("Before", before), ("After", after)):
        if score is None or score.task not in ("classification", "binary"):
            continue
        assert score.task == "classification" or score.task == "binary"  # narrows the union
        if not 0 < len(score.confusion) <= CONFUSION_SHOWN:
            continue
        rows = tuple(tuple((cell, cell / (sum(row) or 1)) for cell in row) for row in score.confusion)
        heats.append(Heat(title, rows))
    return tuple(heats)


def reason_rows(refusals: Sequence[Refusal]) -> tuple[Reason, ...]:
    """By reason, what keeps most parameters out of reach first."""
    by_reason: dict[str, list[Refusal]] = {}
    for refusal in refusals:
        by_reason.setdefault(refusal.reason, []).append(refusal)
    reasons = [
        Reason(
            reason,
            tuple(sorted(found, key=lambda one: -one.parameters)[:REFUSALS_SHOWN]),
            max(0, len(found) - REFUSALS_SHOWN),
            sum(one.parameters for one in found),
        )
        for reason, found in by_reason.items()
    ]
    return tuple(sorted(reasons, key=lambda reason: -reason.parameters))
