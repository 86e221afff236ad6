"""The three sets share no row, whatever was sent."""

import numpy as np
import pytest

from schemas.errors import EspalierError
from worker.engine.data import Samples, split


def samples(numbers: object, labels: bool = True) -> Samples:
    x = np.asarray(numbers, np.float32).reshape(-1, 1)
    return Samples({"x": x, "twice": 2 * x}, np.arange(len(x)) if labels else None)


def rows(part: Samples | None) -> set[float]:
    return set() if part is None else set(part.inputs["x"][:, 0].tolist())


def test_sixty_twenty_twenty_without_an_evaluation_file():
    got = split(samples(range(100)), None, 0)
    parts = [rows(got.fit), rows(got.held_back), rows(got.evaluation)]
    assert [60, 20, 20] == [len(part) for part in parts]
    assert set(range(100)) == set.union(*parts)
    use = got.use
    assert (100, 60, 20, 20) == (
        use.calibration_samples,
        use.fit_samples,
        use.held_back_samples,
        use.evaluation_samples,
    )
    assert use.labels


def test_eighty_twenty_with_one():
    got = split(samples(range(100)), samples(range(200, 230), labels=False), 0)
    assert (80, 20, 30) == (len(rows(got.fit)), len(rows(got.held_back)), len(rows(got.evaluation)))
    assert not got.use.labels
    assert not rows(got.fit) & rows(got.held_back)


def test_rows_keep_their_inputs_and_labels_together():
    got = split(samples(range(50)), None, 3)
    for part in (got.fit, got.held_back, got.evaluation):
        assert part is not None
        np.testing.assert_array_equal(2 * part.inputs["x"], part.inputs["twice"])
        np.testing.assert_array_equal(part.inputs["x"][:, 0], part.labels)


def test_the_seed_decides_and_nothing_else():
    def fit(seed: int) -> list[float]:
        part = split(samples(range(100)), None, seed).fit
        assert part is not None
        return part.inputs["x"][:, 0].tolist()

    assert fit(1) == fit(1)
    assert fit(1) != fit(2)
    assert sorted(fit(1)[:10]) != list(range(10))  # a prefix is a fair sample, not the file's beginning


def test_repeated_rows_count_once():
    got = split(samples([*range(40), *range(40)]), None, 0)
    assert 40 == got.use.duplicates_dropped
    parts = [rows(got.fit), rows(got.held_back), rows(got.evaluation)]
    assert 40 == sum(len(part) for part in parts) == len(set.union(*parts))
    assert "40 repeated calibration rows left out" in got.use.how


def test_rows_equal_in_one_input_only_are_different():
    x = np.zeros((10, 1), np.float32)
    got = split(Samples({"x": x, "z": np.arange(10).reshape(-1, 1)}), None, 0)
    assert 0 == got.use.duplicates_dropped


def test_shared_rows_leave_the_evaluation():
    got = split(samples(range(50)), samples(range(40, 60)), 0)
    assert set(range(50, 60)) == rows(got.evaluation)
    assert 10 == got.use.shared_dropped
    assert got.evaluation is not None
    np.testing.assert_array_equal(np.arange(10, 20), got.evaluation.labels)


def test_an_evaluation_file_of_calibration_rows_alone_is_refused():
    with pytest.raises(EspalierError) as caught:
        split(samples(range(50)), samples(range(20)), 0)
    assert caught.value.code == "data_empty"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_very_few_samples_all_fit_and_the_report_says_so(count):
    got = split(samples(range(count)), None, 0)
    assert count == len(rows(got.fit))
    assert got.held_back is None
    assert got.evaluation is None
    assert "too few to split" in got.use.how
    assert "none left to judge with" in got.use.how


def test_five_samples_are_enough():
    got = split(samples(range(5)), None, 0)
    assert (3, 1, 1) == (len(rows(got.fit)), len(rows(got.held_back)), len(rows(got.evaluation)))


def test_without_calibration():
    got = split(None, samples(range(3)), 0)
    assert got.fit is None
    assert 3 == len(rows(got.evaluation))
    assert split(None, None, 0).evaluation is None


def test_batches_cover_all_rows_in_order():
    batches = list(samples(range(10)).batches(4))
    assert [4, 4, 2] == [batch.count for batch in batches]
    np.testing.assert_array_equal(np.arange(10), np.concatenate([batch.labels for batch in batches]))
