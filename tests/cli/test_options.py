"""Options from a file and from --set."""

import json
from pathlib import Path

import pytest

from schemas.criteria import Distinctiveness, Magnitude
from schemas.errors import EspalierError
from schemas.request import PruneRequest
from service.options import gather


def test_nothing_given_is_the_default() -> None:
    assert PruneRequest() == gather(None, [])


def test_a_parameter_that_one_criterion_alone_has_names_it() -> None:
    assert Distinctiveness(angle_deg=20) == gather(None, ["criterion.angle_deg=20"]).criterion
    with pytest.raises(EspalierError, match="the criterion has no `name`; known: apoz"):
        gather(None, ["criterion.threshold=20"])  # several have it


def test_a_text_that_is_not_json_is_itself() -> None:
    request = gather(None, ["criterion.name=magnitude", "criterion.norm=l1", "amount.remove_units=0.5"])
    assert Magnitude(norm="l1") == request.criterion
    assert 0.5 == request.amount.share


def test_finishing_can_be_asked_for_in_a_word() -> None:
    assert gather(None, ["quantize={}", "distill={}"]) == gather(None, ["quantize=int8", "distill=true"])


def test_order_does_not_matter_within_an_object() -> None:
    given = ["amount.remove_units=0.5", "criterion.norm=l1", "criterion.name=magnitude"]
    assert gather(None, given) == gather(None, given[::-1])


def test_set_goes_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"seed": 3, "scope": {"include": ["a*"]}, "constraints": {"max_macs": 7}}))
    request = gather(file, ["seed=4", 'scope.include=["b*","c*"]'])
    assert (4, ("b*", "c*"), 7) == (request.seed, request.scope.include, request.constraints.max_macs)


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ("criterion.angel_deg=20", "options_invalid", "did you mean 'angle_deg'"),
        ("criterion.angle_deg", "options_invalid", "PATH=VALUE"),
        ("=3", "options_invalid", "PATH=VALUE"),
        ("criterion..x=3", "options_invalid", "PATH=VALUE"),
        ("criterion.angle_deg=200", "options_invalid", "/criterion/angle_deg"),
        ("seed.deep=1", "options_invalid", "not an object"),
    ],
)
def test_what_is_wrong_is_named(given: str, code: str, words: str) -> None:
    with pytest.raises(EspalierError) as refusal:
        gather(None, ["seed=1", given])
    assert code == refusal.value.code
    assert words in str(refusal.value)


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text("{")
    with pytest.raises(EspalierError) as refusal:
        gather(file, [])
    assert ("options_not_json", str(file)) == (refusal.value.code, refusal.value.failure.where)


def test_a_file_that_is_not_an_object_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text("[1]")
    with pytest.raises(EspalierError, match="options_not_json"):
        gather(file, ["seed=1"])
