"""How much may go: the smallest model that keeps the accuracy, or the most accurate one that fits.

In: a request with constraints or a target, the evidence on the groups, the samples. Out: the work of the point that was
chosen, and every point that was visited. Points are judged on samples held back, by accuracy where there are labels,
else by agreement with the uploaded model. Refused: what nothing fulfils (`infeasible`, with the nearest point).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from schemas.amount import Amount, KeepKind
from schemas.errors import EspalierError
from schemas.report import Report, Score, SearchPoint, SearchReport
from schemas.request import PruneRequest
from worker.engine import arena, cost, devices, evaluate
from worker.engine.budget import Quantities
from worker.engine.criteria.evidence import Evidence
from worker.engine.data import Split
from worker.engine.measure import output_infos
from worker.engine.remove import quantities, remove
from worker.engine.stages import Stages, Subject, Work

HALVINGS = 6
NEARLY_ALL = 0.98  # of what is there: less than this cannot be called smaller
ATTEMPTS = 3  # to meet a measured latency, which no estimate meets at once
LEAST = 0.02
NOTHING = 1e-9  # of the units: less than half of one
SLACK = 1e-9  # 1 - 0.98 is 0.020000000000000018


@dataclass(frozen=True)
class Point:
    """A request with an amount, and what came of it. `work` is only good until the next point is made."""

    request: PruneRequest
    work: Work
    seen: SearchPoint


@dataclass
class _Search:
    subject: Subject
    evidence: Mapping[str, Evidence]
    data: Split
    stage: Stages
    sizes: Quantities
    limits: Mapping[KeepKind, float]  # what constraints and target allow, absolutely
    points: list[SearchPoint] = field(default_factory=list)
    reference: evaluate.Reference | None = None  # the uploaded model's answers, once they have been asked for

    def visit(self, shares: Mapping[KeepKind, float]) -> Point:
        """One point, made and judged."""
        keeps = {kind: share for kind, share in shares.items() if share < 1.0}
        amount = Amount(**keeps) if keeps else Amount(remove_units=NOTHING)
        request = self.subject.request.model_copy(update={"amount": amount})
        work = remove(replace(self.subject, request=request), self.evidence, self.data, self.stage)
        seen = self._seen(amount, work)
        self.points.append(seen)
        return Point(request, work, seen)

    def hard(self) -> dict[KeepKind, float]:
        """The limits as shares of the uploaded model."""
        return {kind: limit / self.sizes.of(kind, {}) for kind, limit in self.limits.items()}

    def _seen(self, amount: Amount, work: Work) -> SearchPoint:
        lost = {name: len(units) for name, units in work.gone.items()}
        after = cost.shapes_after(self.subject.analysis.ties.seen, cost.axes_gone(self.subject.groups, lost))
        score, latency = self._judged(work)
        drop = None if self.reference is None or score is None else self.reference.score.score - score.score
        macs = sum(cost.macs_by_op(self.subject.graph, after).values())
        device = devices.named(self.subject.request.target)
        there = None if device is None else devices.speed(device, macs, self.sizes.int8())
        point = SearchPoint(
            amount=amount,
            parameters=cost.parameters(self.subject.graph, after),
            macs=macs,
            file_bytes=round(self.sizes.of("keep_file_bytes", lost)),
            flash_bytes=self.sizes.weight_bytes(after),
            peak_ram_bytes=arena.peak_ram_bytes(self.subject.graph, self.sizes.deployed(), after),
            latency_ms=latency,
            target_ms=None if there is None else there.milliseconds,
            score=None if score is None else score.score,
            drop=drop,
            broken=(),
        )
        return point.model_copy(update={"broken": tuple(self._broken(point))})

    def _judged(self, work: Work) -> tuple[Score | None, float]:
        subject, held = self.subject, self.data.held_back or self.data.fit
        shelf = subject.loaded.shelf
        if held is not None and self.reference is None:
            task = evaluate.resolve_task(subject.request.evaluation, output_infos(subject), held.labels)
            before = evaluate.session(shelf.save(subject.loaded.proto, "uploaded.onnx"))
            self.reference = evaluate.Reference(task, before, held, subject.graph.fixed_batch(), shelf)
            del before  # two sessions are two models
        after = evaluate.session(work.artifact)
        score = None if self.reference is None else self.reference.judge(after)
        return score, evaluate.latency_ms(after, subject.sample)

    def _broken(self, point: SearchPoint) -> list[str]:
        """The constraints that a point does not meet."""
        asked, (flash, ram) = self.subject.request.constraints, memories(self.subject)
        limits = (
            ("max_file_bytes", asked.max_file_bytes, point.file_bytes),
            ("max_parameters", asked.max_parameters, point.parameters),
            ("max_macs", asked.max_macs, point.macs),
            ("max_peak_ram_bytes", asked.max_peak_ram_bytes, point.peak_ram_bytes),
            ("max_latency_ms", asked.max_latency_ms, took(point)),
            ("max_accuracy_drop", asked.max_accuracy_drop, point.drop),
            ("flash of the target", flash, point.flash_bytes),
            ("RAM of the target", ram, point.peak_ram_bytes),
        )
        broken = [name for name, limit, got in limits if limit is not None and got is not None and got > limit + SLACK]
        if asked.min_accuracy is not None and point.score is not None and point.score < asked.min_accuracy - SLACK:
            broken.append("min_accuracy")
        return broken


def took(point: SearchPoint) -> float:
    """What a limit on the latency is about."""
    return point.latency_ms if point.target_ms is None else point.target_ms


def memories(subject: Subject) -> tuple[int | None, int | None]:
    """Flash and RAM that the target has for a model, beside the program."""
    device = devices.named(subject.request.target)
    if device is None:
        return None, None
    program, stack = devices.beside(device, subject.graph)
    flash = None if device.flash_bytes is None else max(device.flash_bytes - program, 1)
    return flash, max(device.ram_bytes - stack, 1)


def take(
    subject: Subject, evidence: Mapping[str, Evidence], data: Split, stage: Stages
) -> tuple[Work, SearchReport | None]:
    """The model as the request wants it, and the way there where it had to be found."""
    if subject.request.amount.kind == "search":
        return _search(subject, evidence, data, stage)
    return remove(subject, evidence, data, stage), None


def _search(
    subject: Subject, evidence: Mapping[str, Evidence], data: Split, stage: Stages
) -> tuple[Work, SearchReport]:
    """The chosen point, made, and all that were visited."""
    sizes = quantities(subject)
    trip = _Search(subject, evidence, data, stage, sizes, _limits(subject, sizes))
    asked = subject.request.constraints
    if asked.max_accuracy_drop is None and asked.min_accuracy is None:
        best, because = (
            _fitting(trip, trip.hard()),
            "the most accurate model that fits: no more is removed than must be",
        )
    else:
        best, because = _smallest(trip), "the smallest model that was seen to keep the accuracy"
    chosen = trip.points.index(best.seen)
    work = best.work if best.seen is trip.points[-1] else remove(
        replace(subject, request=best.request), evidence, data, stage
    )  # fmt: skip
    held = data.held_back or data.fit
    return work, SearchReport(
        points=tuple(trip.points),
        chosen=chosen,
        because=because,
        samples=0 if held is None else held.count,
        by_labels=held is not None and held.labels is not None,
    )


def _limits(subject: Subject, sizes: Quantities) -> dict[KeepKind, float]:
    """What must be kept to, in the units of budgets, where the uploaded model does not already."""
    asked, (flash, ram) = subject.request.constraints, memories(subject)
    files = [
        one for one in (asked.max_file_bytes, None if flash is None else flash + sizes.overhead) if one is not None
    ]
    rams = [one for one in (asked.max_peak_ram_bytes, ram) if one is not None]
    device = devices.named(subject.request.target)
    measured, macs = asked.max_latency_ms, [] if asked.max_macs is None else [float(asked.max_macs)]
    if device is not None and measured is not None:
        second = devices.speed(device, 1, sizes.int8())
        assert second is not None, "the request's validator asks for a speed"
        macs, measured = [*macs, measured / second.milliseconds], None
    found: dict[KeepKind, float | None] = {
        "keep_file_bytes": min(files, default=None),
        "keep_peak_ram": min(rams, default=None),
        "keep_parameters": asked.max_parameters,
        "keep_macs": min(macs, default=None),
        "keep_latency": measured,
    }
    return {kind: float(limit) for kind, limit in found.items() if limit is not None and sizes.of(kind, {}) > limit}


def _fitting(trip: _Search, shares: Mapping[KeepKind, float]) -> Point:
    """A point that meets the limits. Sizes are met at once; a measured latency after a few attempts."""
    try:
        for _ in range(ATTEMPTS):
            point = trip.visit(shares)
            limit = trip.subject.request.constraints.max_latency_ms
            if limit is None or took(point.seen) <= limit or point.seen.target_ms is not None:
                break  # what is estimated is met at once
            shares = {**shares, "keep_latency": shares.get("keep_latency", 1.0) * 0.95 * limit / point.seen.latency_ms}
    except EspalierError as error:
        if error.failure.code != "amount_unreachable":
            raise
        raise _infeasible(trip, error.failure.detail) from None
    if point.seen.broken:
        raise _infeasible(trip, "")
    return point


def _smallest(trip: _Search) -> Point:
    """Bisection, from what the limits ask for at least downwards, as long as the accuracy is kept."""
    hard = trip.hard()
    kinds = _objective(hard)
    high = min(NEARLY_ALL, *(hard.get(kind, 1.0) for kind in kinds))
    try:
        best = _fitting(trip, {**hard, **dict.fromkeys(kinds, high)})
    except EspalierError:
        if hard:
            raise
        return trip.visit({})  # whatever goes costs too much
    low = LEAST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        try:
            point = trip.visit({**hard, **{kind: min(middle, hard.get(kind, 1.0)) for kind in kinds}})
        except EspalierError as error:
            if error.failure.code != "amount_unreachable":
                raise
            low = middle
            continue
        if point.seen.broken:
            low = middle
        else:
            best, high = point, middle
    return best


def _objective(hard: Mapping[KeepKind, float]) -> tuple[KeepKind, ...]:
    """What is made small: the kind of thing that is scarce; MACs and parameters alike where nothing is."""
    if hard.keys() & {"keep_file_bytes", "keep_parameters", "keep_peak_ram"}:
        return ("keep_file_bytes",)
    return ("keep_macs",) if hard else ("keep_macs", "keep_parameters")


def _infeasible(trip: _Search, why: str) -> EspalierError:
    why = ". ".join(filter(None, (why, _room(trip.subject))))
    if not trip.points:
        return EspalierError("infeasible", why, where="/constraints")
    near = min(trip.points, key=lambda point: (len(point.broken), point.drop or 0.0))
    lost = "" if near.drop is None else f", {100 * near.drop:.2f} points lost on the samples held back"
    detail = (
        f"the nearest of {len(trip.points)} visited takes {near.flash_bytes:,} bytes of flash, {near.peak_ram_bytes:,} "
        f"of RAM, {near.macs:,} MACs and {took(near):.3g} ms{lost}; it does not meet {', '.join(near.broken)}"
    )
    return EspalierError("infeasible", f"{detail}. {why}".removesuffix(". "), where="/constraints")


def _room(subject: Subject) -> str:
    """What the target leaves to a model; the program's part is no constraint that the caller named."""
    device = devices.named(subject.request.target)
    if device is None:
        return ""
    (program, stack), (flash, ram) = devices.beside(device, subject.graph), memories(subject)
    flashes = "" if flash is None else f"{flash:,} bytes of flash beside some {program:,} for the program, and "
    return f"The target has {flashes}{ram:,} bytes of RAM beside some {stack:,} for the stack"


def refuse_misfit(report: Report) -> None:
    """What a search hands out fits its target as it was finally measured, scales of eight-bit weights included."""
    target = report.devices.target
    if report.search is not None and target is not None and not target.after.fits:
        raise EspalierError("infeasible", "; ".join(target.after.why), where="/target")
