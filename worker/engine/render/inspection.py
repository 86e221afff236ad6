"""An inspection for people: one HTML file without scripts, and Markdown.

In: an `Inspection`. Out: text. Names come from models that nobody vouches for: everything is escaped.
"""

from pathlib import Path

from markupsafe import Markup

from schemas.inspection import Inspection
from worker.engine.render import html, markdown

HERE = Path(__file__).parent
ROWS_SHOWN = 500
MARKDOWN_ROWS = 50

html.SOURCES["inspection.html.j2"] = (HERE / "inspection.html.j2").read_text(encoding="utf-8")
PAGE = html.ENVIRONMENT.get_template("inspection.html.j2")
SUMMARY = markdown.ENVIRONMENT.from_string((HERE / "inspection.md.j2").read_text(encoding="utf-8"))


def render_inspection_html(found: Inspection) -> str:
    """The whole page."""
    css = Markup(html.SOURCES["report.css"])  # noqa: S704  # our own file, from this folder
    return PAGE.render(css=css, found=found, what=_sentence(found), most=ROWS_SHOWN)


def render_inspection_markdown(found: Inspection) -> str:
    """The same, short enough for a comment."""
    return SUMMARY.render(found=found, what=_sentence(found), most=MARKDOWN_ROWS)


def _sentence(found: Inspection) -> str:
    seen = found.coverage
    share = seen.prunable_parameters / seen.parameters if seen.parameters else 0.0
    groups = f"{seen.groups:,} group{'' if seen.groups == 1 else 's'} of {seen.units:,} units in all"
    return f"{groups}; {share:.1%} of {seen.parameters:,} parameters lie where units can go"
