"""Options as the command line gives them: a JSON file, and single values by dotted path.

In: an options file and `--set` texts such as `criterion.angle_deg=20`. Out: a `PruneRequest`. Refused, as
`options_not_json` and `options_invalid`: what `parse_options` refuses, a text without `=`, and a path through a value.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import EspalierError
from schemas.parse import read_json
from schemas.request import PruneRequest, parse_options
from schemas.sentences import got


def gather(file: Path | None, settings: Sequence[str]) -> PruneRequest:
    """The options of a pruning."""
    return parse_options(document_of(file, settings))


def document_of(file: Path | None, settings: Sequence[str]) -> dict[str, object]:
    """The options as one document, not yet checked."""
    document = read_json(file.read_bytes(), str(file)) if file else {}
    if not isinstance(document, dict):
        said = f"options must be an object such as {{}}{got(document)}"
        raise EspalierError("options_not_json", said, where=str(file))
    for text in settings:
        _put(document, text)
    return document


def _put(document: dict[str, object], text: str) -> None:
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise EspalierError(
            "options_invalid", f"--set takes PATH=VALUE, for example criterion.angle_deg=20; got {text!r}"
        )
    place = document
    for key in keys[:-1]:
        inner = place.setdefault(key, {})
        if not isinstance(inner, dict):
            raise EspalierError("options_invalid", f"--set {text}: {key!r} is {json.dumps(inner)}, not an object")
        place = inner
    place[keys[-1]] = value_of(value)


def value_of(text: str) -> object:
    """JSON where it is JSON, else the text itself: `magnitude` need not be quoted twice."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value
