"""How many rows a reading is fitted on, and which: of large maps a seeded sample of places."""

import torch

from worker.engine.ops.linear import Spots
from worker.engine.refit.readings import Reading

ROWS_FOR_EACH_FEATURE = 64
LEAST_ROWS = 16384
MOST_ROWS = 2304  # against each other
MOST_BYTES = 256 << 20  # of features that are kept as they are


def rows_for(features: int) -> int:
    return max(ROWS_FOR_EACH_FEATURE * features, LEAST_ROWS)


def rows_wanted(reading: Reading) -> int:
    """Of lanes fewer: each place gives a row for every tap, and all its features are held. Of what is fitted row by row
    as many as are solved at once."""
    if reading.wide:
        return max(min(MOST_ROWS, MOST_BYTES // row_bytes(reading)), 1)
    rows = rows_for(reading.columns)
    return rows if reading.lanes is None else max(min(rows // 4, MOST_BYTES // row_bytes(reading)), 1)


def row_bytes(reading: Reading) -> int:
    """The features of one place, in single precision."""
    return 4 * reading.linear.blocks * reading.linear.features


def some_of(places: tuple[int, int], rows: int, generator: torch.Generator) -> Spots:
    """Places of one batch that together give about so many rows; None for all. `places`: how many there are, and how
    many rows each gives."""
    count, each = places
    wanted = -(-max(rows, 1) // max(each, 1))
    return None if wanted >= count else torch.randperm(count, generator=generator)[:wanted]
