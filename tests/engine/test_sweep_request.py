"""Sweeps and comparisons as requests: the plan that they mean, and what is refused."""

import pytest

from schemas.errors import EspalierError
from schemas.kinds import REQUESTS
from schemas.sweep import CompareRequest, SweepRequest, laid_over, parse_comparison, parse_sweep

MAGNITUDE = {"criterion": {"name": "magnitude"}}


def test_an_option_and_its_values_are_a_point_each() -> None:
    request = parse_sweep({"base": MAGNITUDE, "over": {"amount.remove_units": [0.2, 0.5]}})
    assert [("remove_units 0.2", "", 0.2), ("remove_units 0.5", "", 0.5)] == [
        (one.label, one.series, one.request.amount.share) for one in request.plan
    ]
    assert {"none"} == {one.request.compensation for one in request.plan}  # magnitude's own


def test_several_options_are_every_combination_along_curves() -> None:
    over = {"amount.remove_units": [0.2, 0.5], "compensation": ["none", "merge"]}
    request = parse_sweep({"base": MAGNITUDE, "over": over})
    expected = [
        ("compensation none", 0.2, "none"),
        ("compensation none", 0.5, "none"),
        ("compensation merge", 0.2, "merge"),
        ("compensation merge", 0.5, "merge"),
    ]
    assert expected == [(one.series, one.request.amount.share, one.request.compensation) for one in request.plan]


def test_points_may_be_spelled_out() -> None:
    points = [{"compensation": "none"}, {"criterion": {"name": "random"}, "amount": {"keep_macs": 0.5}}]
    request = parse_sweep({"base": {"amount": {"remove_units": 0.5}}, "points": points})
    assert ["compensation none", "name random, keep_macs 0.5"] == [one.label for one in request.plan]
    assert ["remove_units", "keep"] == [one.request.amount.kind for one in request.plan]


def test_what_a_point_says_lies_over_what_all_share() -> None:
    base = {"criterion": {"name": "distinctiveness", "angle_deg": 20, "centre": "mean"}, "scope": {"exclude": ["a"]}}
    same = laid_over(base, {"criterion": {"angle_deg": 30}, "scope": {"minimum_kept": 2}})
    assert {"name": "distinctiveness", "angle_deg": 30, "centre": "mean"} == same["criterion"]
    assert {"exclude": ["a"], "minimum_kept": 2} == same["scope"]
    assert {"name": "magnitude"} == laid_over(base, MAGNITUDE)["criterion"]
    assert {"keep_macs": 0.5} == laid_over({"amount": {"remove_units": 0.5}}, {"amount": {"keep_macs": 0.5}})["amount"]


def test_names_stay_short() -> None:
    scope = {"include": ["*", "x" * 1000]}
    request = parse_sweep({"base": {"amount": {"remove_units": 0.5}}, "points": [{"scope": scope}]})
    assert 160 == len(request.plan[0].label)
    with pytest.raises(EspalierError) as refusal:
        parse_sweep({"points": [{"scope": {"include": "x" * 10_000}}]})
    assert len(refusal.value.failure.detail) < 500


def test_a_comparison_is_every_criterion_at_every_amount_with_random_beside() -> None:
    asked = {"criteria": [{"name": "magnitude"}, {"name": "distinctiveness"}], "amounts": [{"remove_units": 0.5}]}
    plan = parse_comparison(asked).plan
    assert ["magnitude", "distinctiveness", "random"] == [one.request.criterion.name for one in plan]
    assert len({one.series for one in plan}) == 3
    assert 2 == len(parse_comparison({**asked, "baseline": False}).plan)
    weights = {"criteria": [{"name": "magnitude", "of": "weights"}], "amounts": [{"remove_weights": 0.5}]}
    assert [True, True] == [one.request.criterion.prunes_weights() for one in parse_comparison(weights).plan]
    asked["criteria"] = [{"name": "random"}]
    assert 1 == len(parse_comparison(asked).plan)
    assert 9 == len(parse_comparison({"criteria": [{"name": "magnitude"}, {"name": "magnitude", "norm": "l1"}]}).plan)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "either `over`"),
        ({"over": {"seed": [1]}, "points": [{}]}, "either `over`"),
        ({"over": {"criterion.angel_deg": [1]}}, "did you mean 'angle_deg'"),
        ({"over": {"criterion.angle_deg": [20, 300]}}, "point 2 (angle_deg 300): /criterion"),
        ({"over": {"seed": [1, 2]}}, "'seed' is the same for all points"),
        ({"over": {"amount.remove_units": [0.1, 0.1]}}, "two points are the same"),
        (
            {
                "base": {"criterion": {"name": "magnitude", "of": "weights"}, "sparse_output": True},
                "over": {"amount.remove_weights": [0.1]},
            },
            "sparse_output is for a single pruning",
        ),
        ({"over": {"amount.remove_units": [i / 100 for i in range(1, 66)]}}, "more than 64 points"),
        ({"over": {"amount.remove_units": []}}, "at least 1 item"),
        ({"over": {"criterion": [1], "criterion.name": [2]}}, "to a value and to an object"),
        ({"points": [{"colour": 1}]}, "unknown option 'colour'"),
        ({"over": {"seed": [1]}, "repeet": 2}, "did you mean 'repeat'"),
        ({"over": {"amount.remove_units": [0.1]}, "repeat": 99}, "must be at most 20, not 99"),
    ],
)
def test_a_sweep_that_means_nothing_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(EspalierError) as refusal:
        parse_sweep(options)
    assert "options_invalid" == refusal.value.code
    assert words in refusal.value.failure.detail


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criteria": []}, "not one point"),
        (
            {"criteria": [{"name": "magnitde"}]},
            'not "magnitde"; did you mean',
        ),
        ({"criteria": ["magnitude"]}, '/criteria/0: must be an object, such as {"name": "magnitude"}'),
        ({"criteria": [{"name": "magnitude", "nrm": "l1"}]}, "/criteria/0/nrm: unknown option 'nrm'; did you mean"),
        ({"criteria": [{"name": "magnitude"}], "amounts": [{"threshold": True}]}, "has no threshold set"),
        ({"criteria": [{"name": "magnitude"}], "amounts": [{"keep": 1}]}, "/amounts/0/keep: unknown option"),
        ({"criteria": [{"name": "magnitude"}], "surface": {"unit": 1}}, "did you mean 'units'"),
    ],
)
def test_a_comparison_that_means_nothing_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(EspalierError) as refusal:
        parse_comparison(options)
    assert "options_invalid" == refusal.value.code
    assert words in refusal.value.failure.detail


def test_a_request_survives_its_manifest() -> None:
    sweep = parse_sweep({"base": MAGNITUDE, "over": {"amount.keep_macs": [0.5]}, "repeat": 2})
    compare = parse_comparison({"criteria": [{"name": "magnitude"}], "surface": {}})
    for request in (sweep, compare):
        again = REQUESTS[request.kind].model_validate_json(request.model_dump_json())
        assert request == again
        assert isinstance(again, SweepRequest | CompareRequest)
        assert [one.request for one in request.plan] == [one.request for one in again.plan]


def test_data_are_needed_where_one_point_needs_them() -> None:
    without = parse_sweep({"base": MAGNITUDE, "over": {"amount.remove_units": [0.5]}})
    one = parse_sweep(
        {"base": {**MAGNITUDE, "amount": {"remove_units": 0.5}}, "over": {"compensation": ["none", "merge"]}}
    )
    assert (False, True) == (without.needs_data(), one.needs_data())
    assert "merge" in one.why_data()
    assert "cuda" == parse_sweep({"base": {"device": "cuda"}, "over": {"criterion.angle_deg": [20]}}).device
