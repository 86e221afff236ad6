"""Images moved, mirrored and warped, so that few samples teach as more would.

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
TURNED = 0.2  # radians; like the next three, what it is by, give or take
ZOOMED = 0.15  # of an image's size
STRETCHED = 0.08  # of its height, more than of its width
SHEARED = 0.1  # columns a row


def augmented(feeds: Mapping[str, Array], how: str, random: np.random.Generator) -> Mapping[str, Array]:
    """Images changed at random: float inputs (samples, channels, rows, columns). Others stay as they are."""
    if how == "none":
        return feeds
    return {
        name: _changed(array, how, random) if array.ndim == IMAGES and array.dtype.kind == "f" else array
        for name, array in feeds.items()
    }


def _changed(images: Array, how: str, random: np.random.Generator) -> Array:
    moved = _moved(images, how != "shift", random)
    return _warped(moved, random) if how == "warp" else moved


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


def _warped(images: Array, random: np.random.Generator) -> Array:
    """Half of them turned, zoomed, stretched and sheared; what comes in at an edge is what lies within, mirrored."""
    chosen = np.flatnonzero(random.random(len(images)) < 0.5)
    if not len(chosen):
        return images
    turn, zoom, stretch, shear = random.normal(0, [[TURNED], [ZOOMED], [STRETCHED], [SHEARED]], (4, len(chosen)))
    across, down = np.exp(zoom), np.exp(zoom + stretch)
    ways = np.zeros((len(chosen), 2, 3), np.float32)  # from where a point lies to where its colour is found
    wide = images.shape[3] / images.shape[2]  # both sides count as 2, however long they are
    ways[:, 0, 0], ways[:, 0, 1] = np.cos(turn) * across, (shear - np.sin(turn) * across) / wide
    ways[:, 1, 0], ways[:, 1, 1] = np.sin(turn) * down * wide, np.cos(turn) * down
    some = torch.from_numpy(images[chosen]).float()
    places = F.affine_grid(torch.from_numpy(ways), list(some.shape), align_corners=False)
    warped = images.copy()
    warped[chosen] = F.grid_sample(some, places, padding_mode="reflection", align_corners=False).numpy()
    return warped
