"""What a report warns of: scores that fell far, and what was sent or asked for and made no difference."""

from pathlib import Path

import pytest

from schemas.errors import EspalierError
from schemas.report import Report
from schemas.request import parse_options
from schemas.sweep import parse_comparison, parse_sweep
from tests.engine.nets_lossy import layer_norm
from tests.engine.test_run import HALF, as_input, data, history, job, network, save
from worker.engine.render import render_markdown
from worker.engine.run import Inputs, Limits
from worker.engine.sweep import sweep

NEARLY_ALL = {**HALF, "amount": {"remove_units": 0.8}}
WEIGHTS = {"criterion": {"name": "wanda"}, "amount": {"remove_weights": 0.95}}
GENTLE = {"criterion": {"name": "magnitude", "of": "weights"}, "amount": {"remove_weights": 0.01}}


def fell(report: Report) -> list[str]:
    return [one for one in report.warnings if one.startswith("The score fell far")]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (NEARLY_ALL, "Remove less, or set compensation to reconstruct;"),
        ({**NEARLY_ALL, "compensation": "merge"}, "Remove less, or distill what is left;"),
        (WEIGHTS, "Remove less, or take criterion sparsegpt, which makes up for what goes;"),
    ],
)
def test_a_score_that_fell_far_is_said_with_what_to_try(
    options: dict[str, object], advice: str, tmp_path: Path
) -> None:
    report = job(tmp_path, options, labels=False)
    assert report.after.accuracy is not None
    assert report.after.accuracy.score < 0.9
    (said,) = fell(report)
    assert f"from 1.0000 to {report.after.accuracy.score:.4f}" in said
    assert advice in said


def test_a_score_that_stays_is_no_warning_and_what_constraints_speak_of_is_the_verdict_s(tmp_path: Path) -> None:
    assert [] == fell(job(tmp_path / "gentle", GENTLE, labels=False))
    judged = job(tmp_path / "asked", {**NEARLY_ALL, "constraints": {"max_accuracy_drop": 0.01}}, labels=False)
    assert ([], False) == (fell(judged), judged.verdict.met)


def test_a_history_that_nobody_reads_is_said(tmp_path: Path) -> None:
    said = "The history was not used: criterion magnitude does not look at it; karnin does."
    assert said in job(tmp_path / "unused", HALF).warnings
    karnin = {"criterion": {"name": "karnin", "of": "units"}, "amount": {"remove_units": 0.5}}
    assert not any("history" in one for one in job(tmp_path / "used", karnin).warnings)
    many = parse_sweep({"base": {"criterion": {"name": "magnitude"}}, "over": {"amount.remove_units": [0.2]}})
    folder = tmp_path / "many"
    folder.mkdir()
    path, calibration = save(network(), folder), data(folder, network(), "calibration", 1, labels=False)
    inputs = Inputs(as_input(path), {}, as_input(calibration), None, as_input(history(folder, network())))
    assert said in sweep(many, inputs, folder, Limits(1, 1 << 30), lambda _: None).warnings


def test_a_lossy_that_opens_nothing_is_said(tmp_path: Path) -> None:
    told = "lossy changed nothing: "
    plain = job(tmp_path / "plain", {**HALF, "lossy": True}, labels=False).warnings
    assert [f"{told}no group in scope has units that an operator takes statistics over."] == [
        one for one in plain if one.startswith(told)
    ]
    weights = job(tmp_path / "weights", {**GENTLE, "lossy": True}, labels=False).warnings
    assert f"{told}single weights go, and no width with them." in weights
    opened = job(tmp_path / "opened", {**HALF, "lossy": True}, layer_norm(), labels=False).warnings
    assert not any(one.startswith(told) for one in opened)


@pytest.mark.parametrize("units_only", [{"round_to": 8}, {"scope": {"minimum_kept": 2}}])
def test_what_counts_units_has_no_say_on_single_weights(units_only: dict[str, object]) -> None:
    assert parse_options({**HALF, **units_only})
    with pytest.raises(EspalierError, match="count units; of single weights"):
        parse_options({**GENTLE, **units_only})


def test_a_threshold_beside_an_amount_is_said_and_not_named(tmp_path: Path) -> None:
    angle = {"criterion": {"name": "distinctiveness", "angle_deg": 40}}
    by_amount = job(tmp_path / "amount", {**angle, "amount": {"remove_units": 0.5}}, labels=False)
    said = "criterion.angle_deg had no say: the amount says how much goes."
    assert said in by_amount.warnings
    assert "Distinctiveness, centre auto, removing 50 % of the units" in render_markdown(by_amount)
    by_angle = job(tmp_path / "angle", angle, labels=False)
    assert said not in by_angle.warnings
    assert "Distinctiveness at 40° / 165°, centre auto, by threshold" in render_markdown(by_angle)


def test_a_comparison_names_angles_where_they_decide() -> None:
    both = {"criteria": [{"name": "distinctiveness"}], "amounts": [{"threshold": True}, {"remove_units": 0.5}]}
    assert [
        "distinctiveness at 15° / 165°, centre auto, threshold true",
        "distinctiveness, centre auto, remove_units 0.5",
        "random, remove_units 0.5",
    ] == [one.label for one in parse_comparison(both).plan]
    alone = {**both, "amounts": [{"remove_units": 0.5}]}
    assert ["distinctiveness, centre auto", "random"] == [one.series for one in parse_comparison(alone).plan]
