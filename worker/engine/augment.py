"""Images moved and mirrored, so that few samples teach as more would.

In: a step's inputs, how, and where the randomness comes from. Out: inputs of the same shapes. Nothing is refused: what
is no batch of images in floating point stays as it is.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional as F

from worker.engine.graph import Array

EIGHTH = 8
IMAGES = 4  # dimensions


def augmented(feeds: Mapping[str, Array], how: str, random: np.random.Generator) -> Mapping[str, Array]:
    """Images moved and mirrored: float inputs (samples, channels, rows, columns). Others stay as they are."""
    if how == "none":
        return feeds
    return {
        name: _moved(array, how == "flip", random) if array.ndim == IMAGES and array.dtype.kind == "f" else array
        for name, array in feeds.items()
    }


def _moved(images: Array, mirror: bool, random: np.random.Generator) -> Array:
    count, _, rows, columns = images.shape
    most = rows // EIGHTH, columns // EIGHTH
    padded = F.pad(torch.from_numpy(images), (most[1], most[1], most[0], most[0]))
    tops, lefts = random.integers(0, 2 * most[0] + 1, count), random.integers(0, 2 * most[1] + 1, count)
    flips = np.logical_and(mirror, random.random(count) < 0.5)  # half of them
    cut = [
        (padded[place].flip(-1) if flips[place] else padded[place])[:, top : top + rows, left : left + columns]
        for place, (top, left) in enumerate(zip(tops, lefts, strict=True))
    ]
    moved: Array = torch.stack(cut).numpy()
    return moved
