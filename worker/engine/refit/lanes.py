"""Readings too wide for the Gram of all their features: whole channels are mixed, alike at every tap.

In: a reading, its weights and mixings. Out: which features lie in a lane, features lane by lane, mixed weights, and
what elimination starts from. A lane is what a unit hands to the operator at every tap or place; the mixing M says each
of the teacher's lanes by the student's, and W' = M W at every tap. A place that padding fills is a row of zeros, so
that a constant is fitted to what it is worth on average over the taps. Left out: what has no lanes.
"""

from collections.abc import Mapping

import numpy as np
import torch

from worker.engine.ops.linear import Linear
from worker.engine.ties import Points


def lanes_of(linear: Linear, units: Mapping[str, Points]) -> Points | None:
    """The features of each lane: (lanes, taps). A map without taps has lanes where every unit owns as many places."""
    if linear.taps > 1:
        return np.arange(linear.features).reshape(-1, linear.taps)
    widths = {rows.shape[1] for rows in units.values()}
    if len(widths) != 1 or widths == {1}:
        return None
    lanes: Points = np.concatenate(list(units.values()))
    return lanes if np.array_equal(np.sort(lanes.ravel()), np.arange(linear.features)) else None


def lanes_owned(lanes: Points, rows: Points) -> Points:
    """The lanes of units whose features are given: (units, lanes of each)."""
    home = np.empty(lanes.size, np.int64)
    home[lanes] = np.arange(len(lanes))[:, None]
    owned: Points = np.unique(np.sort(home[rows], axis=1)[:, :: lanes.shape[1]], axis=1)
    return owned


def lane_by_lane(lanes: Points, features: torch.Tensor) -> torch.Tensor:
    """(blocks, rows, features) -> (blocks, rows * taps, lanes)."""
    picked = features[:, :, torch.from_numpy(lanes).to(features.device)]
    return picked.transpose(2, 3).reshape(len(features), -1, len(lanes))


def same(blocks: int, lanes: int, constant: bool, device: str) -> torch.Tensor:
    """The mixing that changes nothing: (blocks, lanes and the constant, lanes)."""
    return torch.eye(lanes + constant, lanes, dtype=torch.float64, device=device).repeat(blocks, 1, 1)


def mixed(lanes: Points, w: torch.Tensor, mixing: torch.Tensor) -> torch.Tensor:
    """Weights (blocks, features and the constant, outputs) that read what the mixing makes of the lanes."""
    at = torch.from_numpy(lanes).to(w.device)
    own = w[:, at]  # (blocks, lanes, taps, outputs)
    made = (mixing.to(w.dtype) @ own.flatten(2)).reshape(len(w), -1, *own.shape[2:])
    found = w.clone()
    found[:, at] = made[:, : len(lanes)]
    if made.shape[1] > len(lanes):
        found[:, -1] += made[:, -1].sum(dim=1)
    return found


def root(lanes: Points, w: torch.Tensor, scale: torch.Tensor, constant: bool) -> torch.Tensor:
    """A matrix (blocks, lanes and the constant, lanes) that is to the lanes' costs what all taps and outputs times
    their scale (blocks, outputs) are: its products of rows are theirs."""
    tiny = torch.finfo(w.dtype).tiny
    levels = w.abs().max().clamp_min(tiny), scale.abs().max().clamp_min(tiny)  # squares are to stay numbers
    scaled = w / levels[0] * (scale / levels[1]).to(w.dtype)[:, None, :]
    own = scaled[:, torch.from_numpy(lanes).to(w.device)].flatten(2)
    values, vectors = torch.linalg.eigh((own @ own.transpose(1, 2)).to(torch.float64))
    found = vectors * values.clamp_min(0.0).sqrt()[:, None, :] * (levels[0].to(torch.float64) * levels[1])
    return torch.cat([found, found.new_zeros(len(found), int(constant), len(lanes))], dim=1)
