"""Curves as SVG: axes with round numbers, a line for each series, bars for deviations, a legend.

In: a title, names of the axes and `Line`s. Out: SVG, its texts escaped. Colours are our own and hold on light and dark
paper; whatever is neither colour nor paper takes the colour of the text around it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10

from markupsafe import Markup, escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 44, 46
LEGEND_ROW, LEGEND_GAP = 18, 10  # the names of lines keep clear of the name of the axis
TICKS = 5
COLOURS = ("#2f9e5f", "#d9773a", "#3f7fd0", "#b54fb0", "#b59a1c", "#2aa5a5", "#d04a5a", "#7b6fd6", "#7f8a82", "#8a5a3a")
MARKS = 60  # with more points than this a line has no dots


@dataclass(frozen=True)
class Line:
    """One curve: (x, y, deviation of y) in the order in which they are joined."""

    name: str
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Scale:
    """From numbers to places on the paper."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def plot(title: str, x_name: str, y_name: str, lines: Sequence[Line], flat: float | None = None) -> Markup:
    """The drawing. `flat` is a level to compare with, such as the uploaded model's score."""
    lines = [Line(line.name, tuple(one for one in line.points if all(map(isfinite, one)))) for line in lines]
    named = [line for line in lines if line.name]
    height = HEIGHT + (LEGEND_GAP + LEGEND_ROW * len(named) if named else 0)
    levels = [y + sign * spread for line in lines for _, y, spread in line.points for sign in (-1, 1)]
    x_ticks = ticks([x for line in lines for x, _, _ in line.points])
    y_ticks = ticks([*levels, *([flat] if flat is not None else [])])
    across = Scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    up = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}" style="max-width:{WIDTH}px;width:100%;font:12px system-ui,sans-serif">',
        f'<text x="{LEFT}" y="16" fill="currentColor" font-weight="600">{escape(title)}</text>',
        *_axes(x_name, y_name, across, up, x_ticks, y_ticks),
    ]
    if flat is not None:
        y = up.at(flat)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            'stroke-dasharray="4 4" opacity=".6"/>'
        )
    for i, line in enumerate(lines):
        parts += _curve(line, COLOURS[i % len(COLOURS)], across, up)
    for i, line in enumerate(named):
        y, colour = HEIGHT + LEGEND_GAP + LEGEND_ROW * i, COLOURS[lines.index(line) % len(COLOURS)]
        parts.append(f'<rect x="{LEFT}" y="{y - 9}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 20}" y="{y - 3}" fill="currentColor">{escape(line.name)}</text>')
    return Markup("".join(str(part) for part in (*parts, "</svg>")))  # noqa: S704  # every text was escaped above


def sheet(drawings: Sequence[Markup]) -> str:
    """Drawings one under another, as a file of their own: dark on white paper."""
    heights = [int(found[1]) for one in drawings if (found := re.search(rf'viewBox="0 0 {WIDTH} (\d+)"', one))]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {sum(heights)}" color="#1d2420">',
        f'<rect width="{WIDTH}" height="{sum(heights)}" fill="#fff"/>',
    ]
    for i, (one, height) in enumerate(zip(drawings, heights, strict=True)):
        parts.append(f'<svg y="{sum(heights[:i])}" width="{WIDTH}" height="{height}">{one}</svg>')
    return "".join((*parts, "</svg>"))


def _axes(
    x_name: str, y_name: str, across: Scale, up: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float]
) -> Iterator[str]:
    for tick in x_ticks:
        x = across.at(tick)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="currentColor" opacity=".12"/>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" fill="currentColor">{tick:g}</text>'
    for tick in y_ticks:
        y = up.at(tick)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity=".12"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="currentColor">{tick:g}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle" fill="currentColor">{escape(x_name)}</text>'
    yield f'<text x="{LEFT}" y="{TOP - 8}" fill="currentColor" opacity=".7">{escape(y_name)}</text>'


def _curve(line: Line, colour: str, across: Scale, up: Scale) -> Iterator[str]:
    places = [(across.at(x), up.at(y)) for x, y, _ in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for (x, y), (_, level, spread) in zip(places, line.points, strict=True):
        if spread > 0:
            low, high = up.at(level - spread), up.at(level + spread)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}" opacity=".5"/>'
        if len(places) <= MARKS:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def ticks(values: Sequence[float]) -> list[float]:
    """Round numbers from below the least to above the greatest."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    rough = (high - low) / TICKS
    power = 10.0 ** floor(log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * (1 - 1e-9))
    first = floor(low / step + 1e-9)
    found = [first * step]
    while found[-1] < high - 1e-9 * step:
        found.append((first + len(found)) * step)
    return [round(tick, 12) for tick in found]
