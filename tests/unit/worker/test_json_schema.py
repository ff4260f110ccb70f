"""Input schemas at the start: each reference resolves within the schema, and the cost of a check is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_worker.flows.input_schema import compile_schema, size_of
from flow_worker.settings.json_schema import UNBOUNDED, weigh

DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"


@pytest.mark.parametrize(
    ("schema", "weight"),
    [
        (True, 1),
        ({"type": "object"}, 2),
        ({"properties": {"a": {"type": "string"}, "b": True}}, 5),
        ({"oneOf": [{"type": "string"}, {"enum": [1, 2, 3]}]}, 9),
        # A reference adds the weight of its target, as often as it occurs.
        ({"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}, 5 + 2),
        ({"$defs": {"a": {"type": "string"}}, "items": {"$ref": "#/$defs/a"}, "not": {"$ref": "#/$defs/a"}}, 8 + 4),
        ({"parts": {"a": {"minimum": 1}}, "$ref": "#/parts/a"}, 5 + 2),
        # A property may have the name of a keyword.
        ({"properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}}}, 6),
    ],
)
def test_the_weight_bounds_the_parts_that_apply_to_one_value(schema: dict[str, Any] | bool, weight: int) -> None:
    assert weigh(schema) == weight


def doubling(levels: int) -> dict[str, Any]:
    """Return a schema without a cycle in which each level applies the next one twice."""
    definitions: dict[str, Any] = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(levels)
    }
    return {"$defs": {**definitions, f"d{levels}": {"type": "null"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "^(a+)+$"},
        {"properties": {"a": {"items": {"pattern": "x"}}}},
        {"patternProperties": {"^(a+)+$": True}},
        {"propertyNames": {"pattern": "^(a+)+$"}},
        {"uniqueItems": True},
        {"unevaluatedProperties": False},
        {"unevaluatedItems": False},
        {"$ref": "#"},
        {"$dynamicRef": "#a", "$dynamicAnchor": "a"},
        {"$schema": DRAFT_2019, "$recursiveRef": "#"},
        {"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/a"}}}},
        {"$anchor": "a", "properties": {"b": {"$ref": "#a"}}},
        {"$schema": DRAFT_7, "dependencies": {"a": ["b"], "c": {"pattern": "^(a+)+$"}}},
        {"$schema": DRAFT_7, "dependencies": {"a": ["b"], "c": {"$ref": "#"}}},
        {"parts": {"a": {"pattern": "^(a+)+$"}}, "$ref": "#/parts/a"},
        doubling(60),
    ],
)
def test_a_check_whose_cost_nothing_bounds_is_recognised(schema: dict[str, Any]) -> None:
    assert weigh(schema) == UNBOUNDED


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"$ref": "http://192.0.2.1/schema.json"}, r"\$ref 'http://192.0.2.1/schema.json' at \$ leads to no part"),
        ({"properties": {"a": {"$ref": "https://x.example/s"}}}, r"at \$\.properties\.a leads to no part"),
        ({"allOf": [True, {"$ref": "file:///etc/passwd"}]}, r"at \$\.allOf\[1\] leads to no part"),
        ({"$ref": "other.json"}, "leads to no part"),
        ({"$id": "https://x.example/s", "$ref": "t"}, "leads to no part"),
        ({"$ref": "#/$defs/missing"}, "leads to no part"),
        ({"$ref": "#missing"}, "leads to no part"),
        ({"$ref": "http://[::1"}, "leads to no part"),
        ({"$ref": "#/required/x", "required": ["a"]}, "leads to no part"),
        ({"$ref": "#/required/0", "required": ["a"]}, "leads to a value that is not a schema"),
        ({"$dynamicRef": "http://192.0.2.1/schema.json"}, "leads to no part"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "leads to no part"),
        ({"$schema": DRAFT_7, "dependencies": {"a": ["b"], "c": {"$ref": "#/x"}}}, "leads to no part"),
        ({"parts": {"a": {"$ref": "#/x"}}, "$ref": "#/parts/a"}, "leads to no part"),
        ({"parts": {"a": {"type": "objekt"}}, "$ref": "#/parts/a"}, "not a JSON Schema"),
        ({"$schema": 7}, r"has a \$schema that is not text"),
        ({"$schema": ["x"]}, r"has a \$schema that is not text"),
        ({"$id": "http://[", "$ref": "x"}, "leads to no part"),
        ({"type": "objekt"}, r"not a JSON Schema at \$\.type"),
        ({"pattern": r"\p{L}"}, "is not a 'regex'"),
        ({"items": {"patternProperties": {"(": True}}}, "is not a 'regex'"),
        ({"$schema": DRAFT_4, "patternProperties": {"(": {}}}, r"pattern '\(' is not a regular expression"),
    ],
)
def test_a_schema_that_cannot_be_applied_is_refused_with_the_place(schema: dict[str, Any], problem: str) -> None:
    retrieved = AssertionError("the worker retrieved a schema")
    with patch("urllib.request.urlopen", side_effect=retrieved), pytest.raises(ValueError, match=problem):
        weigh(schema)


def test_a_deep_schema_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(2000):
        schema = {"not": schema}
    with pytest.raises(ValueError, match="nested too deeply"):
        weigh(schema)


def test_no_file_is_opened_for_a_reference(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="leads to no part"):
        weigh({"$ref": schema.as_uri()})


_DEFINITIONS = [{"$ref": f"#/$defs/d{n}"} for n in range(3)]


def schemas(references: list[dict[str, str]]) -> st.SearchStrategy[Any]:
    """Generate schemas that apply many parts to one value."""

    def nested(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        several = st.lists(below, min_size=1, max_size=3)
        return (
            st.builds(lambda word, each: {word: each}, st.sampled_from(["allOf", "anyOf", "oneOf"]), several)
            | st.builds(lambda word, each: {word: each}, st.sampled_from(["items", "not", "contains"]), below)
            | st.builds(lambda a, b, c: {"if": a, "then": b, "else": c}, below, below, below)
            | st.builds(lambda a, b: {"properties": {"a": a}, "additionalProperties": b}, below, below)
            | st.builds(lambda a, b: {"prefixItems": [a], "items": b}, below, below)
            | st.builds(lambda a, b: {"dependentSchemas": {"a": a}, "propertyNames": b}, below, below)
        )

    leaves = st.sampled_from([True, False, {"type": "string"}, {"enum": [1, "a"]}, {"minItems": 1}, *references])
    return st.recursive(leaves, nested, max_leaves=8)


values = st.recursive(
    st.sampled_from([None, 1, "a"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)
@given(schemas(_DEFINITIONS[:1]), schemas(_DEFINITIONS[1:2]), schemas(_DEFINITIONS[2:]), schemas([]), values)
def test_a_check_applies_no_more_parts_than_the_weight_says(
    root: Any, first: Any, second: Any, third: Any, value: Any
) -> None:
    schema = {"$defs": {"d0": first, "d1": second, "d2": third}, "allOf": [root]}
    validator = compile_schema(schema)
    with patch.object(type(validator), "evolve", autospec=True, side_effect=type(validator).evolve) as applied:
        list(validator.iter_errors(value))
    assert applied.call_count <= weigh(schema) * size_of(value, 1000) < UNBOUNDED
