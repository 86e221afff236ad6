"""The points that a search has visited.

In: a `Report`. Out: a row for each, the smallest model first.
"""

from dataclasses import dataclass

from schemas.report import Report
from worker.engine.render import numbers


@dataclass(frozen=True)
class SearchRow:
    keeps: str
    parameters: str
    macs: str
    flash: str
    ram: str
    latency: str
    score: str
    lost: str
    outcome: str  # chosen, fits, or what it does not meet


def search_time(report: Report) -> str:
    """What the points' times are of."""
    target = report.devices.target
    estimated = report.search is not None and any(point.target_ms is not None for point in report.search.points)
    return f"time on {target.device}, estimated" if target is not None and estimated else "latency"


def search_rows(report: Report) -> tuple[SearchRow, ...]:
    """Nothing where the amount was given."""
    found = report.search
    if found is None:
        return ()
    rows = []
    for place, point in sorted(enumerate(found.points), key=lambda one: (one[1].flash_bytes, one[1].macs)):
        broken = ", ".join(point.broken)
        rows.append(
            SearchRow(
                keeps=point.amount.in_words().removeprefix("keeping "),
                parameters=numbers.count(point.parameters),
                macs=numbers.count(point.macs),
                flash=numbers.size(point.flash_bytes),
                ram=numbers.size(point.peak_ram_bytes),
                latency=numbers.milliseconds(point.latency_ms if point.target_ms is None else point.target_ms),
                score="–" if point.score is None else f"{point.score:.4f}",
                lost="–" if point.drop is None else f"{point.drop:.4f}",
                outcome="chosen" if place == found.chosen else f"not {broken}" if broken else "fits",
            )
        )
    return tuple(rows)
