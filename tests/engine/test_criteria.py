"""Rankings against the papers' definitions written out naively."""

from pathlib import Path

import numpy as np
import pytest

from schemas.criteria import Apoz, BnScale, Distinctiveness, Fpgm, Magnitude, Random
from schemas.errors import EspalierError
from tests.engine.dissect import dissect
from tests.engine.nets import cnn, mlp, shared_bias
from worker.engine.criteria import passed_over, ranking
from worker.engine.criteria.evidence import Evidence, Step, angles_deg, centred, gather
from worker.engine.execute import Executor, to_numpy
from worker.engine.observe import SiteGram, grams


def evidence(acts: np.ndarray, rows: np.ndarray | None = None, middle: float | None = None) -> Evidence:
    """acts: (samples, units)."""
    acts = acts.astype(np.float64)
    site = SiteGram("t", acts.T @ acts, acts.sum(0), len(acts), middle, (acts == 0).sum(0).astype(np.float64))
    return Evidence(acts.shape[1], lambda: np.eye(acts.shape[1]) if rows is None else rows, (site,))


def naive_angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def naive_pairs(acts: np.ndarray, angle: float, opposite: float) -> list[tuple[int, str, int]]:
    """The papers' two loops over pairs of units."""
    removed: list[tuple[int, str, int]] = []
    out: set[int] = set()
    for i in range(acts.shape[1]):
        for j in range(i + 1, acts.shape[1]):
            if i in out or j in out:
                continue
            between = naive_angle(acts[:, i], acts[:, j])
            if between < angle:
                out.add(j)
                removed.append((j, "similar", i))
            elif between > opposite:
                out |= {i, j}
                removed += [(j, "opposite", i), (i, "opposite", j)]
    return removed


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("angle", "opposite"), [(15.0, 165.0), (40.0, 140.0), (70.0, 110.0)])
def test_threshold_form_is_the_papers_pair_loop(seed: int, angle: float, opposite: float) -> None:
    acts = np.random.default_rng(seed).standard_normal((6, 14))
    steps = ranking(Distinctiveness(angle_deg=angle, opposite_deg=opposite)).by_threshold(evidence(acts))
    assert naive_pairs(acts, angle, opposite) == [(step.unit, step.why, step.partner) for step in steps]


def test_the_naive_loop_tells_another_order_apart() -> None:
    acts = np.random.default_rng(0).standard_normal((6, 14))
    assert naive_pairs(acts, 40, 140) != naive_pairs(acts[:, ::-1], 40, 140)


def test_angles_in_the_steps_are_those_between_the_vectors() -> None:
    acts = np.random.default_rng(1).uniform(0, 1, (20, 6))
    for step in ranking(Distinctiveness(angle_deg=60)).by_threshold(evidence(acts)):
        assert step.partner is not None
        assert naive_angle(acts[:, step.unit], acts[:, step.partner]) == pytest.approx(step.angle_deg)


def test_dead_units_go_first_and_apart_from_pairs() -> None:
    acts = np.random.default_rng(2).uniform(0, 1, (20, 5))
    acts[:, [1, 3]] = 0
    steps = ranking(Distinctiveness(angle_deg=0.001)).by_threshold(evidence(acts))
    assert (Step(1, "dead"), Step(3, "dead")) == steps
    kept = ranking(Distinctiveness(angle_deg=0.001, dead_units=False)).by_threshold(evidence(acts))
    assert () == kept


def test_centring_half_and_mean_change_the_angles_as_written() -> None:
    acts = np.random.default_rng(3).uniform(0, 1, (30, 4))
    one = evidence(acts, middle=0.5)
    for how, shifted in (("none", acts), ("half", acts - 0.5), ("auto", acts - 0.5), ("mean", acts - acts.mean(0))):
        want = shifted.T @ shifted
        np.testing.assert_allclose(centred(one.sites[0], how), want, atol=1e-9)  # type: ignore[arg-type]
    relu = evidence(acts, middle=None)
    np.testing.assert_allclose(centred(relu.sites[0], "auto"), acts.T @ acts, atol=1e-9)


def test_centre_changes_what_is_removed() -> None:
    rng = np.random.default_rng(4)
    acts = 0.5 + 0.01 * rng.standard_normal((40, 6))  # near 0.5: alike until the middle is taken off
    raw = ranking(Distinctiveness(centre="none")).by_threshold(evidence(acts, middle=0.5))
    half = ranking(Distinctiveness(centre="half")).by_threshold(evidence(acts, middle=0.5))
    assert 5 == len(raw)
    assert 0 == len(half)


def test_on_weights_looks_at_rows_and_not_at_activations() -> None:
    acts = np.random.default_rng(5).standard_normal((30, 4))
    rows = np.array([[1.0, 0], [0, 1], [2.0, 0], [-1, 0]])
    steps = ranking(Distinctiveness(on="weights")).by_threshold(evidence(acts, rows))
    assert [(2, "similar", 0), (3, "opposite", 0), (0, "opposite", 3)] == [(s.unit, s.why, s.partner) for s in steps]


def test_ordered_form_takes_the_closest_pair_next() -> None:
    acts = np.random.default_rng(6).standard_normal((12, 9))
    steps = ranking(Distinctiveness(dead_units=False)).in_order(evidence(acts))
    angles = angles_deg(acts.T @ acts)
    alive = set(range(9))
    for step in steps:
        best = min((angles[i, j], i, j) for i in alive for j in alive if i < j)
        assert (best[2], best[1]) == (step.unit, step.partner)
        alive.remove(step.unit)
    assert 1 == len(alive)


def test_ordered_form_begins_with_dead_units() -> None:
    acts = np.random.default_rng(7).uniform(0, 1, (12, 5))
    acts[:, 4] = 0
    assert Step(4, "dead") == ranking(Distinctiveness()).in_order(evidence(acts))[0]


def test_scores_do_not_depend_on_the_order_of_units_or_on_a_scale_that_relu_absorbs() -> None:
    acts = np.random.default_rng(8).uniform(0, 1, (25, 7))
    scale = np.random.default_rng(9).uniform(0.5, 2, 7)
    order = np.random.default_rng(10).permutation(7)
    plain = angles_deg(acts.T @ acts)
    scaled = acts * scale
    np.testing.assert_allclose(plain, angles_deg(scaled.T @ scaled), atol=1e-6)
    mixed = acts[:, order]
    np.testing.assert_allclose(plain[np.ix_(order, order)], angles_deg(mixed.T @ mixed), atol=1e-6)


ROWS = np.array([[3.0, 4.0], [6.0, 0.0], [1.0, 1.0], [0.0, 5.5]])


@pytest.mark.parametrize(("norm", "order"), [("l2", [2, 0, 3]), ("l1", [2, 3, 1])])
def test_magnitude_ranks_by_the_norm_of_incoming_weights(norm: str, order: list[int]) -> None:
    steps = ranking(Magnitude(norm=norm)).in_order(evidence(np.ones((2, 4)), ROWS))  # type: ignore[arg-type]
    assert order == [step.unit for step in steps]


def test_magnitude_threshold_takes_what_is_smaller() -> None:
    steps = ranking(Magnitude(threshold=5.2)).by_threshold(evidence(np.ones((2, 4)), ROWS))
    assert [2, 0] == [step.unit for step in steps]
    assert [2] == [s.unit for s in ranking(Magnitude(threshold=4.0)).by_threshold(evidence(np.ones((2, 4)), ROWS))]


def test_random_draws_another_order_for_every_seed_and_every_group(tmp_path: Path) -> None:
    dissected = dissect(shared_bias(), tmp_path)

    def order(group: int, seed: int) -> list[int]:
        found = gather(dissected.graph, dissected.analysis.groups[group], (), seed)
        return [step.unit for step in ranking(Random()).in_order(found)]

    groups = dissected.analysis.groups
    assert groups[0].units == groups[1].units
    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)
    assert groups[0].units - 1 == len(set(order(0, 1)))


def test_random_takes_every_unit_as_often_as_any_other() -> None:
    first = [ranking(Random()).in_order(Evidence(4, lambda: np.eye(4), (), (seed,)))[0].unit for seed in range(400)]
    counts = np.bincount(first, minlength=4)
    assert 60 < counts.min()
    assert counts.max() < 140


def test_apoz_takes_the_unit_that_is_zero_most_often() -> None:
    acts = np.ones((20, 4))
    for unit, zeros in enumerate((5, 15, 0, 10)):
        acts[:zeros, unit] = 0
    steps = ranking(Apoz()).in_order(evidence(acts))
    assert [(1, 0.25), (3, 0.5), (0, 0.75)] == [(step.unit, step.score) for step in steps]
    assert [1, 3] == [step.unit for step in ranking(Apoz(threshold=0.4)).by_threshold(evidence(acts))]
    assert [1] == [step.unit for step in ranking(Apoz(threshold=0.6)).by_threshold(evidence(acts))]


def test_zeros_are_counted_in_samples_and_positions_where_the_next_layer_reads(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    executor = Executor(dissected.graph)
    seen: dict[str, np.ndarray] = {}
    executor.run(dissected.feeds, lambda name, value: seen.update({name: to_numpy(value)}))
    half = [{name: array[part] for name, array in dissected.feeds.items()} for part in (slice(7), slice(7, None))]
    found = grams(executor, dissected.analysis.groups, half, count_zeros=True)
    for group, tensor in (("c1", "p1"), ("c2", "r2")):
        zeros = found[group][0].zeros
        assert zeros is not None
        assert (seen[tensor] == 0).sum(axis=(0, 2, 3)).tolist() == zeros.tolist()
        assert 0 < zeros.max()
    assert found["c1"][0].rows == seen["p1"].size // 6
    assert dissected.evidence["c1"].sites[0].zeros is None


FILTERS = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [9.0, 1.0]])


@pytest.mark.parametrize(("distance", "order"), [("euclidean", [1, 2, 0]), ("cosine", [1, 2, 3])])
def test_fpgm_takes_the_unit_that_is_nearest_to_all_others(distance: str, order: list[int]) -> None:
    found = evidence(np.ones((2, 4)), FILTERS)
    assert order == [step.unit for step in ranking(Fpgm(distance=distance)).in_order(found)]  # type: ignore[arg-type]
    steps = ranking(Fpgm()).in_order(found)
    naive = [sum(np.linalg.norm(one - other) for other in FILTERS) for one in FILTERS]
    for step in steps:
        assert pytest.approx(naive[step.unit]) == step.score


def test_bn_scale_reads_the_normalisation_behind_each_unit(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    scales = np.abs(dissected.graph.constants["n1.scale"])
    steps = ranking(BnScale()).in_order(dissected.evidence["c1"])
    assert np.argsort(scales)[:-1].tolist() == [step.unit for step in steps]
    limit = float(np.sort(scales)[2])
    assert 2 == len(ranking(BnScale(threshold=limit)).by_threshold(dissected.evidence["c1"]))
    assert {"c2", "fc1"} == set(passed_over(BnScale(), dissected.evidence))


def test_a_criterion_without_a_say_on_any_group_is_refused_with_the_reason(tmp_path: Path) -> None:
    dissected = dissect(mlp(), tmp_path)
    with pytest.raises(EspalierError, match="fc1: no BatchNormalization is behind its units") as caught:
        passed_over(BnScale(), dissected.evidence)
    assert "criterion_not_applicable" == caught.value.code
    with pytest.raises(EspalierError, match="none of its activations is ever zero"):
        passed_over(Apoz(), {"sigmoid": evidence(np.full((3, 2), 0.5))})
    assert {} == passed_over(Apoz(), {"sigmoid": evidence(np.eye(3))})
    assert {} == passed_over(Magnitude(), dissected.evidence)


def naive_closest(acts: np.ndarray, angle: float, opposite: float) -> list[tuple[int, str, int]]:
    """Every pair that is left, measured again before each removal."""
    removed: list[tuple[int, str, int]] = []
    left = list(range(acts.shape[1]))

    def pairs() -> list[tuple[float, int, int]]:
        return [(naive_angle(acts[:, i], acts[:, j]), i, j) for i in left for j in left if i < j]

    while (found := pairs()) and min(found)[0] < angle:
        _, i, j = min(found)
        left.remove(j)
        removed.append((j, "similar", i))
    while (found := pairs()) and max(found)[0] > opposite:
        _, i, j = max(found)
        left = [one for one in left if one not in (i, j)]
        removed += [(j, "opposite", i), (i, "opposite", j)]
    return removed


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("angle", "opposite"), [(15.0, 165.0), (70.0, 110.0), (70.0, 91.0)])
def test_the_closest_form_measures_what_is_left_after_each_removal(seed: int, angle: float, opposite: float) -> None:
    acts = np.random.default_rng(seed).standard_normal((6, 14))
    criterion = Distinctiveness(angle_deg=angle, opposite_deg=opposite, iterate="closest")
    steps = ranking(criterion).by_threshold(evidence(acts))
    assert naive_closest(acts, angle, opposite) == [(step.unit, step.why, step.partner) for step in steps]


def test_the_closest_form_is_not_the_loop_over_pairs() -> None:
    acts = np.random.default_rng(0).standard_normal((6, 14))
    assert naive_closest(acts, 70, 110) != naive_pairs(acts, 70, 110)


@pytest.mark.parametrize("iterate", ["pairs", "closest"])
def test_a_permutation_of_units_permutes_what_is_chosen(iterate: str) -> None:
    """In the closest form which units pair; of a pair the later one goes, so distinct pairs are compared."""
    rng = np.random.default_rng(11)
    acts = rng.standard_normal((40, 12))
    acts[:, 6:] = acts[:, :6] + 0.05 * rng.standard_normal((40, 6))  # six close pairs
    order = rng.permutation(12)
    criterion = Distinctiveness(angle_deg=15, iterate=iterate)  # type: ignore[arg-type]
    plain = {frozenset((s.unit, s.partner)) for s in ranking(criterion).by_threshold(evidence(acts))}
    mixed = ranking(criterion).by_threshold(evidence(acts[:, order]))
    assert plain == {frozenset((int(order[s.unit]), int(order[s.partner or 0]))) for s in mixed}
    assert 6 == len(plain)
