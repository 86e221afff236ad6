"""How many rows a reading is fitted on, and which: of large maps a seeded sample of places."""

import torch

from worker.engine.ops.linear import Spots

ROWS_FOR_EACH_FEATURE = 64
LEAST_ROWS = 16384


def rows_wanted(features: int) -> int:
    return max(ROWS_FOR_EACH_FEATURE * features, LEAST_ROWS)


def some_of(places: tuple[int, int], rows: int, generator: torch.Generator) -> Spots:
    """Places of one batch that together give about so many rows; None for all. `places`: how many there are, and how
    many rows each gives."""
    count, each = places
    wanted = -(-rows // max(each, 1))
    return None if wanted >= count else torch.randperm(count, generator=generator)[:wanted]
