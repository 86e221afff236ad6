"""/docs: the reference as one page without scripts, fonts or any address but our own, so that it works behind every
wall.

In: the OpenAPI document. Out: HTML. What the document says is escaped; the failure codes have anchors, because the
`type` of every problem points at them.
"""

import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from schemas.criteria import CRITERIA
from schemas.errors import FAILURES
from service.describe import describe

Json = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2e7d4f; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 2px solid var(--accent); }
code, pre { font: 0.9em ui-monospace, monospace; } pre { background: var(--soft); padding: .75rem; overflow-x: auto; }
nav { display: flex; flex-wrap: wrap; gap: 0 1rem; } a { color: var(--accent); }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; padding: 0 .75rem; }
summary { cursor: pointer; padding: .5rem 0; }
summary b { display: inline-block; min-width: 4.2rem; color: var(--accent); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); padding: .3rem .6rem .3rem 0; }
:target { background: #e5c10033; }
"""

EXAMPLE = """curl -F model=@model.onnx -F calibration=@calibration.npz -F 'options={"amount": {"remove_units": 0.5}}' \\
     ADDRESS/prune
curl -N ADDRESS/jobs/JOB_ID/events
curl -OJ ADDRESS/jobs/JOB_ID/artifact"""


def page(document: Json, address: str) -> str:
    """The whole page; `address` is the service's, as its reader knows it."""
    info, example = document["info"], EXAMPLE.replace("ADDRESS", address.rstrip("/"))
    parts = [
        f"<h1>{escape(info['title'])}</h1><p>{escape(info['version'])} · {_prose(info['description'])}</p>",
        '<nav><a href="#operations">Operations</a><a href="#options">Options</a><a href="#criteria">Criteria</a>'
        '<a href="#schemas">Schemas</a><a href="#errors">Errors</a><a href="/openapi.json">openapi.json</a></nav>',
        f"<h2>In three lines</h2><pre>{escape(example)}</pre>",
        "<p>Where the service has API keys, send yours as <code>Authorization: Bearer KEY</code>.</p>",
        '<h2 id="operations">Operations</h2>',
        *_operations(document),
        '<h2 id="options">Options</h2>',
        _fields(document["components"]["schemas"]["PruneRequest"]),
        '<h2 id="criteria">Criteria</h2>',
        *_criteria(),
        '<h2 id="schemas">Schemas</h2>',
        *_schemas(document),
        '<h2 id="errors">Errors</h2>',
        "<p>Every error is <code>application/problem+json</code> (RFC 9457). Programs look at <code>code</code>.</p>",
        _errors(),
    ]
    metas = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"<head>{metas}<title>{escape(info['title'])}</title><style>{STYLE}</style></head>"
    return f'<!doctype html><html lang="en">{head}<body>{"".join(parts)}</body></html>'


def _prose(text: str) -> str:
    """Escaped text, in which `this` is code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{one}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _operations(document: Json) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            lock = "" if not one.get("security") else " · needs a key, where there are keys"
            title = f"<b>{method.upper()}</b> <code>{escape(path)}</code> {escape(one.get('summary', ''))}"
            inside = f"<p>{_prose(one.get('description', ''))}{lock}</p>"
            rows = [
                (f"<code>{escape(p['name'])}</code>", p["in"], _kind(p["schema"]), _prose(p.get("description", "")))
                for p in one.get("parameters", [])
            ]
            if rows:
                inside += _table(("Parameter", "In", "Type", ""), rows)
            for media, body in one.get("requestBody", {}).get("content", {}).items():
                inside += f"<p>Body: <code>{escape(media)}</code></p>" + _body(body["schema"])
            answers = [(f"<code>{status}</code>", _answer(told)) for status, told in sorted(one["responses"].items())]
            inside += _table(("Status", "Answer"), answers)
            yield f"<details><summary>{title}</summary>{inside}</details>"


def _body(schema: Json) -> str:
    return (
        _fields(schema) if "properties" in schema else f"<p>{_kind(schema)} {_prose(schema.get('description', ''))}</p>"
    )


def _answer(told: Json) -> str:
    content = ", ".join(
        f"<code>{escape(media)}</code> {_kind(one.get('schema', {}))}" for media, one in told.get("content", {}).items()
    )
    return f"{_prose(told.get('description', ''))} {content}"


def _fields(schema: Json) -> str:
    required = schema.get("required", [])
    rows = []
    for name, one in schema.get("properties", {}).items():
        default = "required" if name in required else _default(one)
        rows.append((f"<code>{escape(name)}</code>", _kind(one), default, _prose(one.get("description", ""))))
    return _table(("Name", "Type", "Default", ""), rows)


def _default(schema: Json) -> str:
    default = schema.get("default")
    if default is None:
        return ""
    return f"<code>{escape(default if isinstance(default, str) else json.dumps(default))}</code>"


def _kind(schema: Json) -> str:
    """A short name of a type, with its bounds; other schemas are links."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{escape(name)}">{escape(name)}</a>'
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " | ".join(_kind(one) for one in schema[key])
    if "enum" in schema or "const" in schema:
        return " | ".join(f"<code>{escape(str(one))}</code>" for one in schema.get("enum", [schema.get("const")]))
    kind = "file" if schema.get("format") == "binary" else escape(str(schema.get("type", "any")))
    if "items" in schema:
        kind = f"{kind} of {_kind(schema['items'])}"
    signs = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": "&gt;", "exclusiveMaximum": "&lt;"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return " ".join([kind, ", ".join(bounds)]).strip()


def _criteria() -> Iterator[str]:
    for name, criterion in CRITERIA.items():
        told = describe(name, criterion)
        facts = [("Use when", told.use_when), ("Cost", told.cost), ("Papers", told.paper)]
        lines = "".join(f"<br><b>{head}:</b> {_prose(text)}" for head, text in facts)
        yield f"<h3><code>{escape(name)}</code></h3><p>{_prose(told.summary)}{lines}</p>{_fields(told.json_schema)}"


def _schemas(document: Json) -> Iterator[str]:
    for name, schema in sorted(document["components"]["schemas"].items()):
        inside = f"<p>{_prose(schema.get('description', ''))}</p>{_body(schema)}"
        yield f'<details id="schema-{escape(name)}"><summary>{escape(name)}</summary>{inside}</details>'


def _errors() -> str:
    rows = [
        (f'<code id="{code}">{code}</code>', str(kind.status), escape(kind.title), escape(kind.hint))
        for code, kind in FAILURES.items()
    ]
    return _table(("Code", "Status", "Meaning", "What to try"), rows)
