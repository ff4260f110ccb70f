from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from flow_contracts.output import MAX_VALUES, encode_output
from flow_contracts.result import FlowResult, Status


@pytest.mark.parametrize("media_type", ["application/json", "application/problem+json", "Text/JSON; charset=utf-8"])
def test_json_is_encoded_as_json(media_type: str) -> None:
    assert encode_output(b'{"a": [1, null]}', media_type) == ({"a": [1, None]}, media_type, "json")


def test_json_null_is_not_an_empty_body() -> None:
    assert encode_output(b"null", "application/json") == (None, "application/json", "json")
    assert encode_output(b"", "application/json") == (None, None, None)


@pytest.mark.parametrize("body", [b"{oops", b'{"a": 1, "a": 2}', b"[NaN]", b'"\\ud800"', b"[" * 5000])
def test_a_body_declared_json_that_is_not_strict_json_is_encoded_as_text(body: bytes) -> None:
    assert encode_output(body, "application/json") == (body.decode(), "application/json", "text")


@pytest.mark.parametrize(
    ("body", "media_type", "text"),
    [
        (b"plain", "text/plain", "plain"),
        ("grün".encode("latin-1"), "text/plain; charset=iso-8859-1", "grün"),
        ("grün".encode(), 'text/html; charset="UTF-8"', "grün"),
        (b"<a/>", "application/xml", "<a/>"),
        (b"<a/>", "application/atom+xml;type=entry", "<a/>"),
        (b"a=1", "application/x-www-form-urlencoded; charset=utf-8", "a=1"),
    ],
)
def test_text_is_decoded_in_its_declared_character_set(body: bytes, media_type: str, text: str) -> None:
    assert encode_output(body, media_type) == (text, media_type, "text")


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"\x89PNG", "image/png"),
        (b"anything", None),
        (b"\xff\xfe\xfd", "text/plain"),
        (b"text", "text/plain; charset=klingon"),
        (b"text", "text/plain; charset=base64"),
        (b"+2AA-", "text/plain; charset=utf-7"),
        (b"\xff", "application/json"),
    ],
)
def test_every_other_body_is_encoded_as_base64(body: bytes, media_type: str | None) -> None:
    assert encode_output(body, media_type) == (base64.b64encode(body).decode(), media_type, "base64")


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        ("grün", "utf-16"),
        ("grün", "utf-16le"),
        ("grün", "latin1"),
        ("grün €", "windows-1252"),
        ("я", "cp1251"),
        ("a", "ascii"),
    ],
)
def test_the_character_sets_of_the_list_are_decoded(text: str, charset: str) -> None:
    assert encode_output(text.encode(charset), f"text/plain; charset={charset}")[0] == text


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "unicode_escape", "raw_unicode_escape", "utf-7", "utf-32", "rot13"]
)
@pytest.mark.parametrize("media_type", ["text/plain", "application/json", "application/octet-stream"])
def test_no_other_character_set_is_decoded(charset: str, media_type: str) -> None:
    body = b"a" * 200_000  # punycode would take seconds
    started = time.process_time()
    assert encode_output(body, f"{media_type}; charset={charset}")[2] == "base64"
    assert time.process_time() - started < 1


@pytest.mark.parametrize("value", ["[]", "{}", "1", '{"a":1}', "[[]]", '"a"', '"[,{"'])
def test_json_of_very_many_values_is_text(value: str) -> None:
    body = f"[{','.join([value] * (MAX_VALUES + 1))}]"
    assert encode_output(body.encode(), "application/json") == (body, "application/json", "text")
    few = f"[{','.join([value] * 100)}]"
    assert encode_output(few.encode(), "application/json") == (json.loads(few), "application/json", "json")


@given(st.binary(), st.none() | st.sampled_from(["application/json", "text/plain", "text/plain; charset=utf-16", "x"]))
def test_every_response_body_fits_into_a_result(body: bytes, media_type: str | None) -> None:
    output, output_type, encoding = encode_output(body, media_type)
    FlowResult(
        status=Status.SUCCEEDED,
        output=output,
        output_type=output_type,
        output_encoding=encoding,
        correlation_id="c",
        request_message_id="m",
    )
    if encoding == "base64":
        assert isinstance(output, str)
        assert base64.b64decode(output) == body


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_encoding_does_not_change_json_values(value: JsonValue) -> None:
    assert encode_output(json.dumps(value).encode(), "application/json")[0] == value
