"""A criterion as its readers see it, drawn from its schema class: what it does, when, at what cost, and every
parameter.

In: a class from `schemas.criteria.CRITERIA`. Out: a `CriterionDoc`. Nothing is written twice: descriptions, defaults
and bounds are those that options are checked against.
"""

from typing import Any

from pydantic import BaseModel, Field

from schemas.criteria import CriterionBase


class ParameterDoc(BaseModel):
    name: str
    type: str = Field(description="number, integer, boolean, string, object; `| null` where it may be left out.")
    default: float | bool | str | None
    description: str
    minimum: float | None = Field(default=None, description="The least value allowed.")
    maximum: float | None = Field(default=None, description="The greatest value allowed.")
    above: float | None = Field(default=None, description="The value must be greater than this.")
    below: float | None = Field(default=None, description="The value must be less than this.")
    choices: tuple[str, ...] = Field(default=(), description="The values allowed, where there are only some.")


class CriterionDoc(BaseModel):
    name: str
    summary: str
    use_when: str
    cost: str
    paper: str
    parameters: tuple[ParameterDoc, ...]
    json_schema: dict[str, Any] = Field(description="JSON Schema of the object `criterion` in options.")


def describe(name: str, criterion: type[CriterionBase]) -> CriterionDoc:
    """One criterion, documented."""
    schema = criterion.model_json_schema()
    parameters = [_parameter(key, one) for key, one in schema["properties"].items() if key != "name"]
    return CriterionDoc(
        name=name,
        summary=criterion.summary,
        use_when=criterion.use_when,
        cost=criterion.cost,
        paper=criterion.paper,
        parameters=tuple(parameters),
        json_schema=schema,
    )


def _parameter(name: str, schema: dict[str, Any]) -> ParameterDoc:
    """One property of a JSON Schema. An optional one says so by `anyOf` with null."""
    variants = schema.get("anyOf", [schema])
    inner = [deep for one in variants for deep in one.get("oneOf", [one])]  # a union inside one that may be null
    kinds = [str(one.get("type", "object" if "$ref" in one else "string")) for one in inner]
    bounds = next(one for one in variants if one.get("type") != "null")
    return ParameterDoc(
        name=name,
        type=" | ".join(dict.fromkeys(kinds)),
        default=schema.get("default"),
        description=schema.get("description", ""),
        minimum=bounds.get("minimum"),
        maximum=bounds.get("maximum"),
        above=bounds.get("exclusiveMinimum"),
        below=bounds.get("exclusiveMaximum"),
        choices=tuple(bounds.get("enum", ())),
    )
