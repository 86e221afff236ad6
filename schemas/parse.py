"""From what a caller sent as options to a checked request, or to complaints that a person understands.

In: JSON text or a mapping, and the model to read it as. Out: the model. Refused: what is no JSON object
(`options_not_json`), and everything that the model does not take (`options_invalid`), each complaint a JSON pointer and
a sentence; an unknown key names the nearest known one.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from schemas.criteria import CRITERIA
from schemas.criteria.weights import PATTERNS
from schemas.errors import EspalierError, FieldError, nearest

# An answer is not much longer than what it answers: nobody reads the rest.
MAX_COMPLAINTS = 30
MAX_KEY_CHARACTERS = 100

Request = TypeVar("Request", bound=BaseModel)
Place = tuple[int | str, ...]


def parse(raw: str | bytes | Mapping[str, Any], kind: type[Request]) -> Request:
    """The options as the model has them."""
    if isinstance(raw, str | bytes):
        try:
            raw = json.loads(raw or "{}")
            # Half a surrogate pair passes as an escape, but is no text that could be stored.
            json.dumps(raw, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise EspalierError("options_not_json", f"options: {error}", where="options") from None
    if not isinstance(raw, Mapping):
        raise EspalierError("options_not_json", f"options must be an object, not {type(raw).__name__}", where="options")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        errors = complaints(error, kind)
        detail = "; ".join(f"{one.pointer or '/'}: {one.detail}" for one in errors)
        if error.error_count() > len(errors):
            detail += f"; and {error.error_count() - len(errors)} more"
        raise EspalierError("options_invalid", detail, where="options", errors=errors) from None


def complaints(error: ValidationError, kind: type[BaseModel]) -> tuple[FieldError, ...]:
    """The first complaints of pydantic."""
    return tuple(
        FieldError(
            pointer=_pointer(problem["loc"]), detail=_sentence(kind, problem["type"], problem["loc"], problem["msg"])
        )
        for problem in error.errors(include_url=False, include_context=False, include_input=False)[:MAX_COMPLAINTS]
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


def _sentence(request: type[BaseModel], kind: str, loc: Place, message: str) -> str:
    if kind == "extra_forbidden":
        key = _short(loc[-1])
        return f"unknown option {key!r}; {nearest(key, _known(request, loc[:-1]))}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return f"`name` must be one of {', '.join(CRITERIA)}"
    if kind in ("model_attributes_type", "model_type"):
        example = '{"name": "magnitude"}' if loc[0] in ("criterion", "criteria") else "{}"
        return f"must be an object, such as {example}"
    return message.removeprefix("Value error, ")


def _known(request: type[BaseModel], loc: Place) -> tuple[str, ...]:
    """The keys that the object at `loc` of the options takes."""
    model = request
    for i, part in enumerate(loc):
        if _is_tag(loc, i):
            model = CRITERIA.get(str(part)) or PATTERNS[str(part)]
        elif isinstance(part, str):
            model = _model_in(model.model_fields[part].annotation) or model
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model that a field holds: alone, or None, or many of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _model_in(one))), None)
