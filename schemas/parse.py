"""From what a caller sent as options to a checked request, or to complaints that a person understands.

In: JSON text or a mapping, and the model to read it as. Out: the model. Refused: what is no JSON object
(`options_not_json`), and everything that the model does not take (`options_invalid`), each complaint a JSON pointer and
a sentence; an unknown key names the nearest known one.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.criteria import CRITERIA
from schemas.criteria.weights import PATTERNS
from schemas.errors import EspalierError, FieldError, nearest
from schemas.sentences import LONGEST_QUOTE, got, sentence

# An answer is not much longer than what it answers: nobody reads the rest.
MAX_COMPLAINTS = 30
MAX_KEY_CHARACTERS = 100

# Where an object belongs and something else was given.
EXAMPLES = {
    "criterion": '{"name": "magnitude"}',
    "criteria": '{"name": "magnitude"}',
    "amount": '{"keep_macs": 0.5}',
    "amounts": '{"remove_units": 0.5}',
    "points": '{"compensation": "none"}',
    "pattern": '{"n": 2, "m": 4}',
}
NO_OBJECT = ("model_attributes_type", "model_type")
_NO_LIST = ("tuple_type", "list_type")

Request = TypeVar("Request", bound=BaseModel)
Place = tuple[int | str, ...]


def parse(raw: str | bytes | Mapping[str, Any], kind: type[Request]) -> Request:
    """The options as the model has them."""
    if isinstance(raw, str | bytes):
        raw = read_json(raw or "{}", "options")
    if not isinstance(raw, Mapping):
        said = f"options must be an object such as {{}}{got(raw)}"
        raise EspalierError("options_not_json", said, where="options")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        errors = complaints(error, kind)
        detail = "; ".join(f"{one.pointer or '/'}: {one.detail}" for one in errors)
        if error.error_count() > len(errors):
            detail += f"; and {error.error_count() - len(errors)} more"
        raise EspalierError("options_invalid", detail, where="options", errors=errors) from None


def read_json(text: str | bytes, where: str) -> Any:
    """What JSON text says. What is none is `options_not_json`."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        why = "it is nested more deeply than options ever are"
    except UnicodeEncodeError:
        why = "it holds half a surrogate pair, which is no text that could be stored"
    except UnicodeDecodeError:
        why = "it is not UTF-8"
    except json.JSONDecodeError as error:
        why = f"it is not JSON: {error}"
    except ValueError:
        why = "it holds a number of thousands of digits"
    else:
        return value
    raise EspalierError("options_not_json", why, where=where)


def complaints(error: ValidationError, kind: type[BaseModel]) -> tuple[FieldError, ...]:
    """The first complaints of pydantic."""
    return tuple(
        FieldError(pointer=_pointer(problem["loc"]), detail=_sentence(kind, problem))
        for problem in error.errors(include_url=False)[:MAX_COMPLAINTS]
    )


def _is_tag(loc: Place, i: int) -> bool:
    """Whether pydantic put this in to say which variant of a union it tried."""
    before = next((part for part in reversed(loc[:i]) if isinstance(part, str)), "")
    return (before in ("criterion", "criteria") and loc[i] in CRITERIA) or (before == "pattern" and loc[i] in PATTERNS)


def _pointer(loc: Place) -> str:
    """The path in the caller's document: the tag of a union is not part of it."""
    parts = [part for i, part in enumerate(loc) if not _is_tag(loc, i)]
    return "".join("/" + _short(part).replace("~", "~0").replace("/", "~1") for part in parts)


def _short(part: int | str) -> str:
    """A key as it was sent, unless it is longer than any key of ours could be meant to be."""
    return str(part)[:MAX_KEY_CHARACTERS]


def _sentence(request: type[BaseModel], problem: ErrorDetails) -> str:
    kind, loc = problem["type"], problem["loc"]
    if kind == "extra_forbidden":
        key = _short(loc[-1])
        return f"unknown option {key!r}; {nearest(key, _known(request, loc[:-1]))}"
    if kind == "union_tag_invalid":
        return f"`name` must be the name of a criterion, not {_quoted(problem)}; {_criterion_near(problem)}"
    if kind == "union_tag_not_found":
        return f"the criterion has no `name`; known: {', '.join(CRITERIA)}."
    place = next((part for i, part in reversed([*enumerate(loc)]) if isinstance(part, str) and not _is_tag(loc, i)), "")
    if kind in NO_OBJECT and place in ("criterion", "criteria") and isinstance(problem["input"], str):
        return f"must be an object, such as {EXAMPLES[place]}, not text; {_criterion_near(problem)}"
    if kind in NO_OBJECT:
        return sentence(problem, example=EXAMPLES.get(place, "{} for its defaults"))
    return sentence(problem, _meaning(request, loc), _list_of(problem, place))


def _list_of(problem: ErrorDetails, place: str) -> str:
    """The list that was meant, where there is one thing instead of it."""
    if problem["type"] not in _NO_LIST or isinstance(problem["input"], Mapping | None):
        return ""
    given = json.dumps(problem["input"], ensure_ascii=False)
    return f"[{EXAMPLES.get(place, given)}]" if len(given) <= LONGEST_QUOTE else ""


def _criterion_near(problem: ErrorDetails) -> str:
    return nearest(_quoted(problem).strip('"'), tuple(CRITERIA))


def _quoted(problem: ErrorDetails) -> str:
    """The name of a criterion that was given."""
    given = problem["input"]
    return json.dumps(given.get("name") if isinstance(given, Mapping) else given, ensure_ascii=False)[
        :MAX_KEY_CHARACTERS
    ]


def _meaning(request: type[BaseModel], loc: Place) -> str:
    """What the option at `loc` says of itself; an entry of a list or a mapping means what the whole does."""
    while loc and not isinstance(loc[-1], str):
        loc = loc[:-1]
    fields = _model_at(request, loc[:-1]).model_fields.items()
    return next((field.description or "" for name, field in fields if loc and loc[-1] in (name, field.alias)), "")


def _known(request: type[BaseModel], loc: Place) -> tuple[str, ...]:
    """The keys that the object at `loc` of the options takes."""
    return tuple(field.alias or name for name, field in _model_at(request, loc).model_fields.items())


def _model_at(request: type[BaseModel], loc: Place) -> type[BaseModel]:
    """The model of the innermost object at `loc` of the options."""
    model = request
    for i, part in enumerate(loc):
        if _is_tag(loc, i):
            model = CRITERIA.get(str(part)) or PATTERNS[str(part)]
        elif part in model.model_fields:
            model = _model_in(model.model_fields[str(part)].annotation) or model
    return model


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model that a field holds: alone, or None, or many of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _model_in(one))), None)
