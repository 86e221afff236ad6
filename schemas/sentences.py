"""What pydantic finds wrong, as sentences for people: what must stand there, what stood there, and what it is for.

In: one complaint of pydantic, what the field is for, and an example. Out: a sentence. Nothing is refused: a complaint
of a kind that is not in the table keeps pydantic's words.
"""

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

LONGEST_QUOTE = 60
PERCENT = 100

# Filled in with the complaint's context.
MUST: Mapping[str, str] = {
    "missing": "is missing",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "literal_error": "must be {expected}",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "too_short": "must have at least {min_length} item",
    "too_long": "must have at most {max_length} items",
}
_QUOTED = re.compile(r"'([^']*)'")
_ALL_BUT_THE_FORM = ("missing", "too_short", "too_long")


def sentence(problem: ErrorDetails, meaning: str = "", example: str = "") -> str:
    """What is wrong and what was given; what would be right; what the field is for."""
    kind, given = problem["type"], problem["input"]
    if kind not in MUST:
        return problem["msg"].removeprefix("Value error, ")
    context = {name: _as_json(value) for name, value in problem.get("ctx", {}).items()}
    said = MUST[kind].format(**context)
    if kind not in _ALL_BUT_THE_FORM:
        said += got(given)
    if kind == "less_than" and context["lt"] == 1 and isinstance(given, int | float) and given > 1:
        said += f"; {given:g} % is {given / 100:g}" if given < PERCENT else ""
    if kind == "literal_error":
        said += _meant(given, tuple(_QUOTED.findall(str(context["expected"]))))
    if example:
        said += f"; write {example}"
    return f"{said} ({meaning.rstrip('.')})" if meaning else said


def got(given: object) -> str:
    """Single values are named; whoever sent more than that knows it."""
    if given is None or isinstance(given, bool | int | float | str):
        quoted = json.dumps(given, ensure_ascii=False)
        return f", not {quoted}" if len(quoted) <= LONGEST_QUOTE else ""
    return ", not a list" if isinstance(given, list | tuple) else ", not an object"


def _meant(given: object, known: tuple[str, ...]) -> str:
    """The value that was mistyped, if one is near; all of them have been named."""
    close = get_close_matches(str(given)[:LONGEST_QUOTE], known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else ""


def _as_json(value: Any) -> Any:
    """Python's constants as the caller writes them."""
    return {"True": "true", "False": "false", "None": "null"}.get(value, value) if isinstance(value, str) else value
