"""Many prunings of one model in one job: a sweep over options, and a comparison of criteria.

In: a JSON object. Out: a `SweepRequest` or a `CompareRequest`, each with its plan: one `PruneRequest` for each point.
Refused: a point that is no valid request (saying which), more points than `MOST_POINTS`, and points that differ in what
they must share: the model is loaded, analysed and run on the data once for all of them.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from schemas.amount import Amount
from schemas.criteria import Criterion, Random
from schemas.parse import complaints, parse
from schemas.request import JobKind, Preprocess, PruneRequest
from schemas.strict import Strict

MOST_POINTS = 64
MOST_REPEATS = 20
LONGEST_NAME = 160
SHARED = ("lossy", "preprocess", "sample_axes", "evaluation", "device", "seed")

Options = dict[str, JsonValue]
Keep = Literal["all", "best", "none"]


@dataclass(frozen=True)
class Planned:
    """One point before it is run. `series` names the curve it belongs to."""

    label: str
    series: str
    request: PruneRequest


class _Many(Strict, ABC):
    """What a sweep and a comparison have in common."""

    base: Options = Field(default_factory=dict, description="Options of POST /prune that all points share.")
    repeat: int = Field(
        default=1,
        ge=1,
        le=MOST_REPEATS,
        description="Run every point with this many seeds, counted up from base.seed: means and standard deviations.",
    )
    keep: Keep = Field(
        default="best", description="The models that are kept as files: of all points, of the best one, or none."
    )

    @abstractmethod
    def _apart(self) -> Iterator[tuple[str, str, Options]]:
        """Label, series and settings of each point."""

    @cached_property
    def plan(self) -> tuple[Planned, ...]:
        """Every point, in order."""
        planned: list[Planned] = []
        for label, series, settings in self._apart():
            label, series = _short(label), _short(series)
            shared = sorted(set(settings) & set(SHARED))
            if shared:
                raise ValueError(f"{shared[0]!r} is the same for all points: set it in `base`")
            try:
                request = PruneRequest.model_validate(laid_over(self.base, settings))
            except ValidationError as error:
                wrong = "; ".join(f"{one.pointer or '/'}: {one.detail}" for one in complaints(error, PruneRequest)[:3])
                raise ValueError(f"point {len(planned) + 1} ({label}): {wrong}") from None
            if request.verify_on is not None:
                raise ValueError("verify_on is for a single pruning: prune the point that you choose with it")
            if request.sparse_output:
                raise ValueError("sparse_output is for a single pruning: prune the point that you choose with it")
            planned.append(Planned(label, series, request))
            if len(planned) > MOST_POINTS:
                raise ValueError(f"more than {MOST_POINTS} points; a job takes no more")
        if len({json.dumps(one.request.model_dump(mode="json"), sort_keys=True) for one in planned}) < len(planned):
            raise ValueError("two points are the same")
        if not planned:
            raise ValueError("there is not one point")
        return tuple(planned)

    @model_validator(mode="after")
    def _planned(self) -> "_Many":
        assert self.plan
        return self

    @property
    def device(self) -> Literal["auto", "cpu", "cuda"]:
        return self.plan[0].request.device

    @property
    def preprocess(self) -> Preprocess:
        return self.plan[0].request.preprocess

    @property
    def sample_axes(self) -> Mapping[str, int | None]:
        return self.plan[0].request.sample_axes

    @property
    def lossy(self) -> bool:
        return self.plan[0].request.lossy

    @property
    def seed(self) -> int:
        """The first one."""
        return self.plan[0].request.seed

    def needs_data(self) -> bool:
        return any(one.request.needs_data() for one in self.plan)

    def why_data(self) -> str:
        return next(one.request.why_data() for one in self.plan if one.request.needs_data())

    def needs_history(self) -> bool:
        return any(one.request.needs_history() for one in self.plan)

    def why_history(self) -> str:
        return next(one.request.why_history() for one in self.plan if one.request.needs_history())


class SweepRequest(_Many):
    """Everything a caller may choose about a sweep."""

    kind: ClassVar[JobKind] = "sweep"

    over: dict[str, Annotated[tuple[JsonValue, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description='An option and its values, such as {"amount.remove_units": [0.2, 0.5]} or {"criterion.angle_deg": '
        "[15, 30]}; of several options every combination, the first along the curve, the others a curve each.",
    )
    points: tuple[Options, ...] = Field(
        default=(), description='Instead of `over`: the options of each point, such as [{"compensation": "none"}].'
    )

    @model_validator(mode="before")
    @classmethod
    def _one_way(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and bool(raw.get("over")) == bool(raw.get("points")):
            raise ValueError('give the points: either `over`, such as {"amount.remove_units": [0.2, 0.5]}, or `points`')
        return raw

    def _apart(self) -> Iterator[tuple[str, str, Options]]:
        for settings in self.points:
            yield _words(settings), "", settings
        if not self.points:
            ways = [[(path, value) for value in values] for path, values in self.over.items()]
            for first, *others in _first_fastest(ways):
                settings = _nested((first, *others))
                yield _named(first, *others), _named(*others), settings


class SurfaceRequest(Strict):
    """The error surface: the loss as units are switched off slowly, and as more and more of them are."""

    units: int = Field(default=5, ge=1, le=64, description="The units that each criterion would remove first.")
    steps: int = Field(default=11, ge=2, le=101, description="Settings of a unit's gate, from 1 (open) to 0 (gone).")
    removals: int = Field(
        default=21, ge=2, le=201, description="How many numbers of removed units, from none to all, are tried."
    )
    samples: int = Field(default=1000, ge=1, description="Judged on so many of the evaluation samples at most.")


class CompareRequest(_Many):
    """Everything a caller may choose about a comparison of criteria."""

    kind: ClassVar[JobKind] = "compare"

    criteria: tuple[Criterion, ...] = Field(description="The criteria, each with its parameters; at least one.")
    amounts: tuple[Amount, ...] = Field(
        default=(Amount(remove_units=0.25), Amount(remove_units=0.5), Amount(remove_units=0.75)),
        description="How much each of them removes: a point for every criterion and amount.",
    )
    baseline: bool = Field(default=True, description="Put the criterion `random` beside them.")
    surface: SurfaceRequest | None = Field(
        default=None, description="Also the error surface of the units that each criterion would remove first."
    )

    def _apart(self) -> Iterator[tuple[str, str, Options]]:
        if not self.criteria or not self.amounts:
            raise ValueError("there is not one point: give at least one criterion and one amount")
        pairs: list[tuple[Criterion, Amount]] = [(one, amount) for one in self.criteria for amount in self.amounts]
        if self.baseline and all(one.name != "random" for one in self.criteria):
            pairs += [(_chance(amount), amount) for amount in self.amounts if amount.kind != "threshold"]
        by_threshold = any(amount.kind == "threshold" for amount in self.amounts)
        for criterion, amount in pairs:
            series = criterion.in_words(by_threshold)
            settings: Options = {
                "criterion": criterion.model_dump(mode="json"),
                "amount": amount.model_dump(mode="json", exclude_none=True),
            }
            yield f"{criterion.in_words(amount.kind == 'threshold')}, {_words(settings['amount'])}", series, settings


def _chance(amount: Amount) -> Random:
    """The baseline for an amount."""
    return Random(of="weights" if amount.kind == "remove_weights" else "units")


def laid_over(base: Mapping[str, JsonValue], settings: Mapping[str, JsonValue]) -> Options:
    """The options of a point: its own over those that all share. An amount and another criterion replace what was
    there; of the same criterion, and of every other section, single values do."""
    document = dict(base)
    for name, value in settings.items():
        before = document.get(name)
        if name == "criterion" and isinstance(value, dict):
            shared = before if isinstance(before, dict) else {}
            other = "name" in value and shared.get("name", value["name"]) != value["name"]
            document[name] = value if other else {**shared, **value}
        elif name != "amount" and isinstance(before, dict) and isinstance(value, dict):
            document[name] = {**before, **value}
        else:
            document[name] = value
    return document


def _first_fastest(ways: list[list[tuple[str, JsonValue]]]) -> Iterator[tuple[tuple[str, JsonValue], ...]]:
    """Every combination, along one curve after another."""
    for others in product(*ways[1:]):
        for first in ways[0]:
            yield (first, *others)


def _nested(chosen: tuple[tuple[str, JsonValue], ...]) -> Options:
    """Dotted paths as an object."""
    settings: Options = {}
    for path, value in chosen:
        place = settings
        *sections, last = path.split(".")
        for section in sections:
            inner = place.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{path}: {section!r} is set to a value and to an object")
            place = inner
        place[last] = value
    return settings


def _named(*chosen: tuple[str, JsonValue]) -> str:
    return ", ".join(f"{path.rpartition('.')[2]} {_text(value)}" for path, value in chosen)


def _words(settings: JsonValue) -> str:
    """An object in few words."""
    if not isinstance(settings, dict):
        return _text(settings)
    return ", ".join(
        f"{name} {_words(value)}" if not isinstance(value, dict) else _words(value) for name, value in settings.items()
    )


def _short(name: str) -> str:
    """A name is read by people, however long the values are that it is made of."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parse_sweep(raw: str | bytes | Mapping[str, Any]) -> SweepRequest:
    """Options of a sweep from JSON text or a mapping; refuses as `schemas.parse` does."""
    return parse(raw, SweepRequest)


def parse_comparison(raw: str | bytes | Mapping[str, Any]) -> CompareRequest:
    """The same for a comparison."""
    return parse(raw, CompareRequest)
