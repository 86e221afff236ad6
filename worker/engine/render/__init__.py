"""The report for people: one self-contained HTML file, and Markdown that fits a pull-request comment."""

from worker.engine.render.html import render_html
from worker.engine.render.inspection import render_inspection_html, render_inspection_markdown
from worker.engine.render.markdown import render_markdown
from worker.engine.render.sweep import render_sweep_html, render_sweep_markdown

__all__ = [
    "render_html",
    "render_inspection_html",
    "render_inspection_markdown",
    "render_markdown",
    "render_sweep_html",
    "render_sweep_markdown",
]
