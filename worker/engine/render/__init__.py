"""The report for people: one self-contained HTML file, and Markdown that fits a pull-request comment."""

from worker.engine.render.html import render_html
from worker.engine.render.markdown import render_markdown

__all__ = ["render_html", "render_markdown"]
