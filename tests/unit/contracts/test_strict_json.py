from __future__ import annotations

import pytest
from hypothesis import given
from pydantic import JsonValue

from flow_contracts.strict_json import MAX_DEPTH, NotJson, dump, parse, validate
from tests.unit.contracts.strategies import json_values


def nested(depth: int) -> JsonValue:
    value: JsonValue = 0
    for _ in range(depth):
        value = [value]
    return value


@given(json_values)
def test_parsing_dumped_json_yields_the_same_value(value: JsonValue) -> None:
    assert parse(dump(value)) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"\xff", "not UTF-8"),
        (b"", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"[1] [2]", "not JSON"),
        (b'{"a": 1, "a": 2}', "duplicate key"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"[1e999]", "beyond the range"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b"9" * 5000, "too many digits"),
        (b"[" * 100_000, "deep"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "deep"),
    ],
)
def test_text_that_is_not_strict_json_is_refused_with_the_reason(text: bytes, problem: str) -> None:
    with pytest.raises(NotJson, match=problem):
        parse(text)


def test_an_error_message_quotes_no_value() -> None:
    with pytest.raises(NotJson) as refused:
        parse(b'{"claim": "secret-token" oops}')
    assert "secret-token" not in str(refused.value)


def test_a_byte_order_mark_is_ignored() -> None:
    assert parse(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_nesting_is_allowed_up_to_the_limit() -> None:
    assert validate(nested(MAX_DEPTH)) == parse(dump(nested(MAX_DEPTH)))
    with pytest.raises(NotJson, match="deep"):
        validate(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": "\ud800"}, nested(100_000)])
def test_a_value_without_a_json_form_is_refused(value: JsonValue) -> None:
    with pytest.raises(NotJson):
        dump(value)
