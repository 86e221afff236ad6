"""The report for people: one self-contained HTML file, and Markdown that fits a pull-request comment."""

from pathlib import Path

from schemas.report import Report
from worker.engine.render.html import render_html
from worker.engine.render.inspection import render_inspection_html, render_inspection_markdown
from worker.engine.render.markdown import render_markdown
from worker.engine.render.plot import sheet
from worker.engine.render.sweep import curves, render_sweep_html, render_sweep_markdown, surfaces

__all__ = [
    "curves",
    "render_html",
    "render_inspection_html",
    "render_inspection_markdown",
    "render_markdown",
    "render_sweep_html",
    "render_sweep_markdown",
    "sheet",
    "surfaces",
    "write_reports",
]


def write_reports(report: Report, folder: Path) -> None:
    """All three forms. Each appears whole, so that a reader finds either the old one or the new one."""
    texts = {
        "report.html": render_html(report),
        "report.md": render_markdown(report),
        "report.json": report.model_dump_json(by_alias=True, indent=1),
    }
    for name, text in texts.items():
        fresh = folder / f"{name}.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(folder / name)
