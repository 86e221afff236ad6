"""The report as one HTML file: no script, no network, no font; styles and drawings are inside.

In: a `Report`. Out: HTML. Names come from models that nobody vouches for: everything is escaped by the template engine.
The templates are read when this module is imported, because a job's process may open nothing but its own files.
"""

import json
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from schemas.report import Report
from worker.engine.render import numbers
from worker.engine.render.view import view

HERE = Path(__file__).parent
SOURCES = {
    name: (HERE / name).read_text(encoding="utf-8") for name in ("report.html.j2", "devices.html.j2", "report.css")
}
ENVIRONMENT = Environment(
    loader=DictLoader(SOURCES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
ENVIRONMENT.filters.update(
    count=numbers.count,
    size=numbers.size,
    exact=numbers.exact,
    percent=numbers.percent,
    seconds=numbers.seconds,
)
TEMPLATE = ENVIRONMENT.get_template("report.html.j2")


def render_html(report: Report) -> str:
    """The whole page."""
    options = report.options.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return TEMPLATE.render(
        css=Markup(SOURCES["report.css"]),  # noqa: S704  # our own file, from this folder
        view=view(report),
        report=report,
        options=json.dumps(options, indent=2, ensure_ascii=False),
    )
