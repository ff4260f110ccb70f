from __future__ import annotations

import pytest
from hypothesis import given
from pydantic import JsonValue, TypeAdapter, ValidationError

from flow_contracts.strict_json import MAX_DEPTH, TRUSTED, Json, NotJson, count_values, dump, parse, validate
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


def values_in(value: JsonValue) -> int:
    children = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return 1 + sum(map(values_in, children))


@given(json_values)
def test_the_count_of_values_is_never_too_small_and_counts_only_empty_arrays_and_objects_twice(
    value: JsonValue,
) -> None:
    data = dump(value)
    counted = count_values(data, 1000)
    assert values_in(value) <= counted <= 2 * values_in(value)
    assert parse(data, max_values=counted) == value


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (b"1", 1),
        (b"[1,2]", 3),
        (b'{"a": 1, "b": [2]}', 4),
        (b'",,,[[["', 1),
        (rb'["\",[", "\\", "\\\",["]', 4),
        (rb'["\\\\", "\\\"", 3]', 4),
        (b"[]", 2),
    ],
)
def test_separators_in_strings_are_no_values(text: bytes, count: int) -> None:
    parse(text)
    assert count_values(text, 1000) == count


@pytest.mark.parametrize("item", [b"[]", b"{}", b'""', b"1", b"[[]]", b'{"":""}', rb'"\\"', rb'"\""'])
def test_too_many_values_are_refused_before_any_of_them_is_built(item: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"[" + b",".join([item] * 1001) + b"]"
    assert parse(text) is not None
    monkeypatch.setattr("json.loads", lambda *_, **__: pytest.fail("the text was parsed"))
    with pytest.raises(NotJson, match="has more than 1000 values"):
        parse(text, max_values=1000)


@pytest.mark.parametrize("text", [b"[" * 500_000, b'["' * 300_000, b'"' + rb"\\" * 300_000, b'{"":' * 200_000])
def test_text_that_is_no_json_is_refused_whatever_the_count(text: bytes) -> None:
    with pytest.raises(NotJson):
        parse(text, max_values=1000)


def test_a_large_text_with_few_values_is_parsed() -> None:
    assert parse(b'["' + b"," * 100_000 + b'"]', max_values=10) == ["," * 100_000]


@pytest.mark.parametrize("sign", [b"", b"-"])
def test_an_integer_has_as_many_digits_as_the_largest_double(sign: bytes) -> None:
    assert parse(sign + b"9" * 309) == int(sign + b"9" * 309)
    assert parse(b'["' + b"9" * 5000 + b'", 1, -2]') == ["9" * 5000, 1, -2]
    with pytest.raises(NotJson, match="too many digits"):
        parse(b"[1, " + sign + b"1" * 310 + b"]")


def test_a_trusted_document_is_not_checked_a_second_time() -> None:
    adapter: TypeAdapter[JsonValue] = TypeAdapter(Json)
    deep = b"[" * 150 + b"]" * 150
    with pytest.raises(ValidationError):
        adapter.validate_json(deep)
    adapter.validate_json(deep, context=TRUSTED)


def test_a_text_may_have_long_integers_but_not_very_many() -> None:
    long = b"[" + b",".join([b"9" * 300] * 300) + b"]"
    assert parse(long) == [int("9" * 300)] * 300
    with pytest.raises(NotJson, match="21 digits or more"):
        parse(b"[" + b",".join([b"9" * 300] * 400) + b"]")
    many = b"[" + b",".join([b"1" * 19] * 40_000) + b"]"
    assert parse(many + b" ") == [int("1" * 19)] * 40_000


BORDER = 256 * 1024
"""A longer text is searched in pieces of this size."""


@pytest.mark.parametrize("shift", range(-3, 4))
@pytest.mark.parametrize(
    ("unit", "values"),
    [
        (b'"a"', 1),
        (b'"\\\\"', 1),
        (b'"\\""', 1),
        (b'"\\\\\\","', 1),
        (b'",[{"', 1),
        (b'{"a":[1,2]}', 4),
    ],
)
def test_a_long_text_has_as_many_values_as_its_pieces(unit: bytes, values: int, shift: int) -> None:
    filler = b" " * (BORDER - 2 - len(unit) // 2 + shift)
    text = b"[1," + filler + unit + b"," + filler + unit + b"]"
    assert len(text) > 2 * BORDER - 20
    assert count_values(text, 1000) == 2 + 2 * values
    parsed = parse(text, max_values=10)
    assert isinstance(parsed, list)
    assert len(parsed) == 3


@pytest.mark.parametrize("shift", range(-25, 26, 5))
def test_a_long_integer_is_found_at_the_border_of_two_pieces(shift: int) -> None:
    text = b"[" + b" " * (BORDER + shift - 12) + b"1" * 310 + b"]"
    with pytest.raises(NotJson, match="too many digits"):
        parse(text)


@pytest.mark.parametrize("size", [10, BORDER, 3 * BORDER])
def test_the_place_of_a_fault_counts_the_space_before_it(size: int) -> None:
    space = b" " * size
    assert parse(space + b"1" + space) == 1
    assert parse(space + b"\xef\xbb\xbf" + space + b"1") == 1
    with pytest.raises(NotJson, match=f"Expecting value at line 1 column {size + 1}$"):
        parse(space + b"x")
    with pytest.raises(NotJson, match=f"Extra data at line 1 column {2 * size + 2}$"):
        parse(space + b"1" + space + b"2")
    with pytest.raises(NotJson, match="Expecting value"):
        parse(space)
