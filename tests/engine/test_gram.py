"""Grams of wide groups, in single precision and blocks, against the sums written out in double precision."""

import numpy as np
import pytest
import torch

from worker.engine import gram
from worker.engine.criteria.evidence import angles_deg, centred
from worker.engine.gram import Gram
from worker.engine.observe import SiteGram

UNITS = gram.WIDE + 37  # no whole number of blocks


def added(acts: np.ndarray, parts: int, device: str = "cpu") -> Gram:
    one = Gram(acts.shape[1], device)
    for part in np.array_split(acts, parts):
        one.add(torch.from_numpy(part).to(device))
    return one


@pytest.mark.parametrize(("units", "tolerance"), [(UNITS, 1e-6), (40, 1e-12)])
def test_a_gram_is_the_sum_of_products(units: int, tolerance: float) -> None:
    acts = np.random.default_rng(0).uniform(0, 1, (5000, units)).astype(np.float32)
    acts[:, 3] = 0
    one = added(acts, 7)
    found, exact = one.total().numpy(), acts.astype(np.float64)
    np.testing.assert_allclose(found, exact.T @ exact, rtol=tolerance)
    np.testing.assert_allclose(one.sums.numpy(), exact.sum(0), rtol=1e-12)
    assert len(acts) == one.rows
    assert np.array_equal(found, found.T)
    assert not found[3].any()


def test_a_gram_of_other_rows_is_told_apart() -> None:
    acts = np.random.default_rng(0).uniform(0, 1, (300, UNITS)).astype(np.float32)
    exact = acts[:-1].astype(np.float64)
    assert np.abs(added(acts, 2).total().numpy() / (exact.T @ exact) - 1).max() > 1e-4


def test_what_all_rows_have_in_common_costs_no_digits() -> None:
    """Sigmoids that hardly move: their angles about the mean are those of the small rest."""
    rng = np.random.default_rng(1)
    acts = (0.9 + 1e-3 * rng.standard_normal((4000, UNITS))).astype(np.float32)
    one = added(acts, 5)
    total = one.total().numpy()
    angles = angles_deg(centred(SiteGram("t", total, one.sums.numpy(), one.rows, None), "mean"))
    rest = acts - acts.astype(np.float64).mean(0)
    np.testing.assert_allclose(angles, angles_deg(rest.T @ rest), atol=1e-2)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gram_on_the_gpu_is_the_same() -> None:
    acts = np.random.default_rng(2).uniform(0, 1, (3000, 80)).astype(np.float32)
    exact = acts.astype(np.float64)
    np.testing.assert_allclose(added(acts, 3, "cuda").total().cpu().numpy(), exact.T @ exact, rtol=1e-4)
