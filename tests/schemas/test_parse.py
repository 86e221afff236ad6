"""What is wrong with options is said in sentences: what must stand there, what stood there, what was probably meant."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from schemas.errors import EspalierError
from schemas.inspect_request import InspectRequest
from schemas.parse import complaints, parse
from schemas.request import PruneRequest
from schemas.sentences import sentence
from schemas.sweep import CompareRequest, SweepRequest

PYDANTIC = ("Input should", "Field required", "should have", "valid tuple", "valid dictionary", "validation")
WRONG: tuple[Any, ...] = (None, True, -1, 0, 2.5, 10**30, "x", "", [], [None], {}, {"x": None}, float("nan"))


def told(options: dict[str, Any], kind: type[BaseModel] = PruneRequest) -> list[tuple[str, str]]:
    with pytest.raises(EspalierError) as caught:
        parse(options, kind)
    return [(one.pointer, one.detail) for one in caught.value.failure.errors]


@pytest.mark.parametrize(
    ("options", "pointer", "detail"),
    [
        (
            {"criterion": {"name": "magnitud"}},
            "/criterion",
            "`name` must be the name of a criterion, not \"magnitud\"; did you mean 'magnitude'?",
        ),
        (
            {"criterion": "magnitud"},
            "/criterion",
            'must be an object, such as {"name": "magnitude"}, not text; did you mean \'magnitude\'?',
        ),
        ({"criterion": 3}, "/criterion", 'must be an object, not 3; write {"name": "magnitude"}'),
        ({"amount": 0.5}, "/amount", 'must be an object, not 0.5; write {"keep_macs": 0.5}'),
        (
            {"amount": {"keep_macs": 50}},
            "/amount/keep_macs",
            "must be less than 1, not 50; 50 % is 0.5 (Keep this share of the multiply-accumulates)",
        ),
        ({"amount": {"keep_macs": 500}}, "/amount/keep_macs", "must be less than 1, not 500 (Keep"),
        (
            {"constraints": {"max_accuracy_drop": 5}},
            "/constraints/max_accuracy_drop",
            "must be less than 1, not 5; 5 % is 0.05 (As a share: 0.01 is one point of 100)",
        ),
        ({"quantize": "int4"}, "/quantize", 'give "int8", true or an object, such as {}, not "int4"'),
        (
            {"criterion": {"name": "wanda"}, "amount": {"keep_macs": 0.5, "keep_parameters": 0.5}},
            "",
            "the criterion ranks single weights, not units: give amount.remove_weights instead of 'keep_macs' and",
        ),
        ({"preprocess": True}, "/preprocess", "must be an object, not true; write {} for its defaults"),
        ({"scope": {"include": "conv*"}}, "/scope/include", 'must be a list, not "conv*"; write ["conv*"]'),
        (
            {"effort": "thorough", "compensation": "project"},
            "",
            'effort is that of compensation "reconstruct"; use that, or leave effort out',
        ),
        ({"share_out": "eror"}, "/share_out", "must be 'error' or 'uniform', not \"eror\"; did you mean 'error'?"),
        ({"device": "gpu"}, "/device", "must be 'auto', 'cpu' or 'cuda', not \"gpu\" (Where the job runs)"),
        ({"amount": {"threshold": False}}, "/amount/threshold", "must be true, not false"),
        ({"seed": float("inf")}, "/seed", "must be a finite number, not Infinity"),
        (
            {"criterion": {"name": "wanda", "pattern": "2:4"}},
            "/criterion/pattern",
            'must be an object, not "2:4"; write {"n": 2, "m": 4}',
        ),
        ({"criterion": {"name": "wanda", "pattern": {"n": 1}}}, "/criterion/pattern/m", "is missing (Of how many)"),
        ({"preprocess": {"std": [0]}}, "/preprocess/std/0", "must be greater than 0, not 0 (Divide: one"),
    ],
)
def test_a_newcomer_understands_it(options: dict[str, Any], pointer: str, detail: str) -> None:
    [(where, what)] = told(options)
    assert (pointer, detail) == (where, what[: len(detail)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 100_000, "nested more deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "a number of thousands of digits"),
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"{", "it is not JSON: Expecting"),
        (b"null", "must be an object such as {}, not null"),
        (b"[]", "must be an object such as {}, not a list"),
    ],
)
def test_text_that_is_no_object_is_refused_in_words(text: bytes, words: str) -> None:
    with pytest.raises(EspalierError) as caught:
        parse(text, PruneRequest)
    assert ("options_not_json", True) == (caught.value.code, words in caught.value.failure.detail)


def test_lists_of_objects_are_shown_as_such() -> None:
    assert [("/criteria", '[{"name": "magnitude"}]')] == [
        (where, what.partition("write ")[2].partition(" (")[0])
        for where, what in told({"criteria": "magnitude"}, CompareRequest)
    ]
    assert 'write {"remove_units": 0.5}' in told({"criteria": [], "amounts": [0.5]}, CompareRequest)[0][1]


def everywhere(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Every option, and every option of every option."""
    for name, field in model.model_fields.items():
        yield (field.alias or name,)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from ((name, *rest) for rest in everywhere(inner))


@pytest.mark.parametrize("kind", [PruneRequest, InspectRequest, SweepRequest, CompareRequest])
def test_no_complaint_has_the_words_of_a_library(kind: type[BaseModel]) -> None:
    seen = 0
    for path in everywhere(kind):
        for wrong in WRONG:
            options: Any = wrong
            for name in reversed(path):
                options = {name: options}
            try:
                parse(options, kind)
            except EspalierError as error:
                seen += 1
                said = error.failure.detail
                assert [] == [words for words in PYDANTIC if words in said], f"{options}: {said}"
    assert seen > len(WRONG)


def test_words_of_a_library_would_be_seen() -> None:
    class Odd(BaseModel):
        when: tuple[int, str] | complex

    with pytest.raises(ValidationError) as caught:
        Odd.model_validate({"when": "x"})
    said = [sentence(one) for one in caught.value.errors()]
    assert any(words in one for words in PYDANTIC for one in said)
    assert len(said) == len(complaints(caught.value, Odd))
