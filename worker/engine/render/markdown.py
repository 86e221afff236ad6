"""The report as GitHub-flavoured Markdown, short enough for a comment on a pull request.

In: a `Report`. Out: Markdown. Names from the model are shown as code, and whatever else may carry them is escaped: a
layer called `@team` mentions nobody and one called `![](https://...)` loads nothing.
"""

import re
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from schemas.report import Report
from worker.engine.render.numbers import percent
from worker.engine.render.view import view

SOURCE = (Path(__file__).parent / "report.md.j2").read_text(encoding="utf-8")
NAME_CHARACTERS = 80
TEXT_CHARACTERS = 400
LIST_SHOWN = 25


def code(name: str) -> Markup:
    """A name as inline code, in a table or out of it."""
    flat = _flat(name, NAME_CHARACTERS).replace("`", "'").replace("|", "\\|")
    return Markup(f"`{flat}`") if flat else Markup("(no name)")  # noqa: S704  # inside code nothing is markup


def text(sentence: str) -> Markup:
    """A sentence in which nothing is a link, a mention, an emphasis or a tag."""
    safe = re.sub(r"([\\`*\[\]|~$#])", r"\\\1", _flat(sentence, TEXT_CHARACTERS))
    safe = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", safe)
    safe = safe.replace("://", ":\\//").replace("www.", "www\\.")
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("@", "&#64;"), ("\\#", "&#35;")):
        safe = safe.replace(sign, entity)
    return Markup(safe)  # noqa: S704  # escaped just here


def _flat(raw: str, most: int) -> str:
    """One line without control characters, cut to length."""
    line = " ".join("".join(c if c.isprintable() else " " for c in raw).split())
    return line if len(line) <= most else line[: most - 1] + "…"


ENVIRONMENT = Environment(
    loader=DictLoader({"report.md.j2": SOURCE}),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.filters.update(code=code, text=text, percent=percent)
TEMPLATE = ENVIRONMENT.get_template("report.md.j2")


def render_markdown(report: Report) -> str:
    """The summary: verdict, sizes, accuracy, proof; layers and refusals folded away."""
    shown = view(report)
    changed = [row for row in shown.layers if row.change or row.layer.parameters_before != row.layer.parameters_after]
    return TEMPLATE.render(view=shown, report=report, layers=changed, most=LIST_SHOWN)
