"""Numbers as people read them: 1.2 M, 64 KiB, 97.05 %, −0.15 points. The exact ones stand beside them, in titles."""

from schemas.report import Score

MINUS = "−"


def count(number: float) -> str:
    """1234567 -> 1.23 M; below ten thousand as it is."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if number >= size:
            return _three_digits(number / (1e3 if unit == " k" else size)) + unit
    return f"{number:,.0f}"


def size(number: float) -> str:
    """In the units of data sheets: 65536 -> 64 KiB."""
    for step, unit in ((1 << 30, " GiB"), (1 << 20, " MiB"), (1 << 10, " KiB")):
        if number >= step:
            return f"{number / step:.4g}{unit}"
    return f"{number:,.0f} B"


def milliseconds(number: float) -> str:
    if 0 < number < 0.001:
        return f"{number * 1e6:.0f} ns"
    if number < 1:
        return f"{number * 1000:.0f} µs"
    return f"{_three_digits(number)} ms" if number < 1000 else f"{_three_digits(number / 1000)} s"


def seconds(number: float) -> str:
    return milliseconds(number * 1000)


def exact(number: float, unit: str = "") -> str:
    text = f"{number:,}" if isinstance(number, int) else f"{number:,.6g}"
    return f"{text} {unit}".strip()


def percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %".replace("-", MINUS)


def change(before: float, after: float) -> str:
    """The relative change: −42.1 %, or nothing to say of a zero."""
    if before == after:
        return "unchanged"
    if not before:
        return "new"
    return signed(100 * (after / before - 1), 1) + " %"


def factor(before: float, after: float) -> str:
    """How many times smaller: 2.40×; nothing where it did not become smaller."""
    return f"{before / after:.2f}×" if before > after > 0 else ""


def signed(number: float, digits: int) -> str:
    text = f"{number:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", MINUS)


def headline(score: Score) -> str:
    """The one number of a score, in its own unit."""
    return f"{score.score:.4f}".replace("-", MINUS) if score.task == "regression" else percent(score.score)


def headline_change(before: Score, after: Score) -> str:
    difference = after.score - before.score
    if after.task == "regression":
        return signed(difference, 4)
    return signed(100 * difference, 2) + " points"


def headline_name(score: Score) -> str:
    if score.task == "fidelity":
        return "Agreement" if score.agreement is not None else "Fidelity"
    return "R²" if score.task == "regression" else "Accuracy"


def _three_digits(number: float) -> str:
    if number >= 99.95:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"
