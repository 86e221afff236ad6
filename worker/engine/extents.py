"""Sizes as numbers times open sizes, and what may be computed with them.

In: sizes and lists of them. Out: the same; None where the result is neither a number nor such a product. Refused:
nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A number times open sizes, sorted by name."""

    number: int
    open: tuple[str, ...] = ()

    def __mul__(self, other: "Size") -> "Size":
        return Size(self.number * other.number, tuple(sorted((*self.open, *other.open))))

    def over(self, other: "Size") -> "Size | None":
        """The quotient, where it is a whole number whatever the open sizes are."""
        left = Counter(self.open)
        left.subtract(other.open)
        if not other.number or self.number % other.number or any(times < 0 for times in left.values()):
            return None
        return Size(self.number // other.number, tuple(sorted(left.elements())))


Sizes = tuple[Size, ...]
Entries = tuple[Size | None, ...]  # of a list: None is not understood


def product(sizes: Sequence[Size]) -> Size:
    whole = Size(1)
    for size in sizes:
        whole = whole * size
    return whole


def plain(sizes: Sequence[Size | None]) -> list[int] | None:
    """The numbers, where nothing is open."""
    known = [size.number for size in sizes if size is not None and not size.open]
    return known if len(known) == len(sizes) else None


def arithmetic(key: str, left: Entries, right: Entries) -> Entries | None:
    long = max(len(left), len(right))
    if {len(left), len(right)} - {1, long} or not left or not right:
        return None
    pairs = zip(left * (long // len(left)), right * (long // len(right)), strict=True)
    return tuple(None if one is None or other is None else one_by_one(key, one, other) for one, other in pairs)


def one_by_one(key: str, one: Size, other: Size) -> Size | None:
    """A number or a product of sizes; None where the result is neither."""
    match key:
        case "Mul":
            return one * other
        case "Div" if not one.open and not other.open:
            return Size(int(one.number / other.number)) if other.number else None
        case "Div":
            return one.over(other)
        case "Add" if one.open == other.open:
            return Size(one.number + other.number, one.open)
        case "Sub" if one.open == other.open:
            left = one.number - other.number
            return Size(left, one.open if left else ())
        case _:
            return None
