"""Bodies as the SDKs of other languages send them are read, and every other form is refused by its name."""

from __future__ import annotations

import base64
import contextlib
import gzip
import itertools
import json
import time
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_contracts.dotnet_xml import NotText, text_of
from flow_contracts.message import Message
from flow_contracts.request import FlowRequest, InvalidRequest
from flow_contracts.request_body import MAX_BODY_BYTES

OBJECT = {"flow": "create-quote", "input": {"name": "Zoë 漢字 😀", "n": [1, 2.5, None]}}
TEXT = json.dumps(OBJECT, ensure_ascii=False)
BODY = TEXT.encode()
NAMESPACE = b"http://schemas.microsoft.com/2003/10/Serialization/"


def request_of(body: bytes, **fields: Any) -> FlowRequest:
    fields.setdefault("message_id", "m-1")
    properties = {"contract": "flow-request/1"} | fields.pop("properties", {})
    return FlowRequest.from_message(Message(body=body, application_properties=properties, **fields))


def refusal_of(body: bytes, **fields: Any) -> str:
    with pytest.raises(InvalidRequest) as refusal:
        request_of(body, **fields)
    assert refusal.value.code == "malformed_request"
    return refusal.value.message


def dotnet(content: bytes, name: bytes = b"string", namespace: bytes = NAMESPACE) -> bytes:
    return b"@" + bytes([len(name)]) + name + b"\x08" + bytes([len(namespace)]) + namespace + content


def chars(text: bytes, record: int = 0x9B) -> bytes:
    width = {0x98: 1, 0x9A: 2, 0x9C: 4, 0x9E: 1, 0xA0: 2, 0xA2: 4, 0xB6: 1, 0xB8: 2, 0xBA: 4}[record & ~1]
    return bytes([record]) + len(text).to_bytes(width, "little") + text


@pytest.mark.parametrize(
    "body",
    [
        *(TEXT.encode(name) for name in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")),
        *(TEXT.encode(name) for name in ("utf-8-sig", "utf-16", "utf-32")),
        *("\ufeff".encode(name) + TEXT.encode(name) for name in ("utf-16-be", "utf-32-be")),
        b" \r\n" + BODY,
        json.dumps(TEXT).encode(),
        json.dumps(TEXT, ensure_ascii=False).encode("utf-16-le"),
        json.dumps("\ufeff" + TEXT).encode(),
        *(("\ufeff\ufeff" + TEXT).encode(name) for name in ("utf-8", "utf-16", "utf-16-be", "utf-32-le")),
        *((" \r\n\ufeff " + TEXT).encode(name) for name in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-be")),
        json.dumps(" \ufeff\ufeff" + TEXT).encode(),
        dotnet(chars(gzip.compress(BODY)), name=b"base64Binary"),
        gzip.compress(dotnet(chars(BODY))),
        dotnet(chars(BODY, 0x99)),
        dotnet(chars(BODY, 0x9B)),
        dotnet(chars(BODY, 0x9D)),
        dotnet(chars(BODY, 0x98) + b"\x01"),
        dotnet(chars(BODY[:10], 0x98) + chars(BODY[10:], 0x9B)),
        dotnet(chars(BODY, 0x9A) + b"\xa9"),
        dotnet(chars(TEXT.encode("utf-16-le"), 0xB9)),
        dotnet(chars(BODY[:9], 0x9E) + chars(BODY[9:], 0xA1), name=b"base64Binary"),
        dotnet(chars(json.dumps(TEXT).encode())),
        gzip.compress(BODY),
        gzip.compress(BODY[:20]) + gzip.compress(BODY[20:]),
        gzip.compress(TEXT.encode("utf-16")),
    ],
    ids=itertools.count(),
)
def test_each_form_of_the_object_is_the_same_request(body: bytes) -> None:
    request = request_of(body)
    assert (request.flow, request.input) == (OBJECT["flow"], OBJECT["input"])


@pytest.mark.parametrize(
    "fields",
    [
        {"content_encoding": "gzip"},
        {"content_encoding": "GZIP"},
        {"properties": {"Content-Encoding": "gzip"}},
        {"properties": {"content-encoding": "x-gzip"}},
        {"properties": {"ContentEncoding": "gzip"}},
    ],
    ids=str,
)
def test_a_content_encoding_names_the_compression_in_every_place(fields: dict[str, Any]) -> None:
    assert request_of(gzip.compress(BODY), **fields).input == OBJECT["input"]
    # A proxy may have decompressed it, and left the name.
    assert request_of(BODY, **fields).input == OBJECT["input"]


@pytest.mark.parametrize("body", [zlib.compress(BODY), zlib.compress(BODY, wbits=-15), BODY])
def test_deflate_is_read_with_and_without_its_frame(body: bytes) -> None:
    assert request_of(body, content_encoding="deflate").input == OBJECT["input"]


@pytest.mark.parametrize("name", ["utf-8", "identity", "none", "binary", ""])
def test_a_content_encoding_that_is_no_compression_changes_nothing(name: str) -> None:
    assert request_of(BODY, content_encoding=name).input == OBJECT["input"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "is empty"),
        (json.dumps(json.dumps(TEXT)).encode(), "a string inside a string"),
        (
            json.dumps('{"flow": "f", "flow": "g"}').encode(),
            "JSON inside a JSON string, which has an object with",
        ),
        (json.dumps('{"flow": "s3cret').encode(), "JSON inside a JSON string, which is not JSON"),
        (b'"s3cret"', "is a string; send the object"),
        (json.dumps([OBJECT]).encode(), "an array; send its element alone"),
        (json.dumps([OBJECT, OBJECT]).encode(), "an array; send the object"),
        (b"7", "is a number"),
        (b"true", "is a boolean"),
        (b"null", "is null"),
        (BODY + BODY, "Extra data"),
        (b"<string>{}</string>", "is XML, not JSON"),
        ("\ufeff<a/>".encode("utf-16"), "is XML, not JSON"),
        (dotnet(chars(b"<a/>")), "is XML, not JSON"),
        (dotnet(chars(b"x"), name=b"Order"), ".NET's binary XML of an object"),
        (dotnet(chars(BODY), namespace=b"urn:s3cret"), ".NET's binary XML of an object"),
        (dotnet(chars(b"x"), name=b"strings", namespace=b"urn:s3cret"), ".NET's binary XML of an object"),
        (dotnet(chars(BODY) + b"\x01"), "cut off or damaged"),
        (dotnet(chars(BODY)[:-1]), "cut off or damaged"),
        (dotnet(chars(BODY)[:1] + b"\x07" + chars(BODY)[2:]), "cut off or damaged"),
        (dotnet(chars(BODY)[:1] + b"\xff" + chars(BODY)[2:], name=b"base64Binary"), "cut off or damaged"),
        (dotnet(chars(BODY)).replace(b"@\x06", b"@\x07", 1), "cut off or damaged"),
        (dotnet(chars(BODY)).replace(b"\x08\x33", b"\x08\x40", 1), "cut off or damaged"),
        (dotnet(chars(BODY))[:20], "cut off or damaged"),
        (dotnet(chars(b"", 0x98) * 2_000 + b"\x01"), "cut off or damaged"),
        (b"@", "cut off or damaged"),
        (b"@s3cret.json", "begins with '@', as the name of a file"),
        (gzip.compress(gzip.compress(BODY)), "compressed twice"),
        (dotnet(chars(gzip.compress(gzip.compress(BODY))), name=b"base64Binary"), "compressed twice"),
        (dotnet(chars(gzip.compress(BODY)[:-5]), name=b"base64Binary"), "compressed, but cut off"),
        ("ï»¿".encode() + BODY, "read as Latin-1"),
        ("\ufeff\ufeff".encode() + b"<a/>", "is XML, not JSON"),
        (str(OBJECT).encode(), "the text of a Python object"),
        (repr(BODY[:9]).encode(), "the text of a Python object"),
        (b"flow=create-quote&input=1", "is a form"),
        (base64.b64encode(BODY), "JSON in Base64"),
        (json.dumps(base64.b64encode(BODY).decode()).encode(), "JSON in Base64"),
        (b"\xff\xfe{", "is not valid UTF-16"),
        (b"{\0\0\xd8", "is not valid UTF-16-LE"),
        (b"\xff{", "is not UTF-8"),
        (gzip.compress(BODY)[:-5], "cut off or damaged"),
        (gzip.compress(b" " * (4 << 20) + BODY), "decompressed, more than the 1048576"),
        (gzip.compress(b" " * (1 << 20) + BODY), "more than the 1048576"),
        ((" " * MAX_BODY_BYTES + TEXT).encode("utf-16"), "more than the 1048576"),
        (b" " * (5 << 20), "more than the 1048576"),
    ],
    ids=itertools.count(),
)
def test_another_form_is_refused_by_its_name_and_without_its_content(body: bytes, expected: str) -> None:
    text = refusal_of(body)
    assert expected in text
    assert text.startswith("The body ")
    assert "s3cret" not in text


@pytest.mark.parametrize("name", ["br", "zstd", "gzip, gzip", "compress"])
def test_another_compression_is_refused_by_its_name(name: str) -> None:
    assert "a content encoding other than gzip and deflate" in refusal_of(b"\x8b\x00", content_encoding=name)


@pytest.mark.parametrize(
    "inner",
    [
        b'{"flow": "f", "input": [' + b"[]," * 50_000 + b"[]]}",
        b'{"flow": "f", "input": ' + b"[" * 150 + b"]" * 150 + b"}",
        b'{"flow": "f", "input": ' + b"9" * 310 + b"}",
    ],
    ids=["values", "levels", "digits"],
)
def test_the_limits_hold_in_every_form(inner: bytes) -> None:
    for body in (
        gzip.compress(inner),
        dotnet(chars(inner, 0x9D)),
        json.dumps(inner.decode()).encode(),
        inner.decode().encode("utf-16"),
    ):
        assert refusal_of(body)


def test_no_form_takes_long() -> None:
    bombs = [
        gzip.compress(b"\0" * (64 << 20)),
        gzip.compress(b"") * 50_000,
        zlib.compress(b"[" * (64 << 20)),
        dotnet(b"\xa8" * (1 << 20)),
        json.dumps("[" * (1 << 19)).encode(),
        json.dumps('"' * (1 << 18)).encode(),
        b"ey" + b"A" * (1 << 20 - 3),
        b"ey " + b" " * (1 << 19) + b"!",
        b"{\0" * (1 << 20),
    ]
    for body in bombs:
        began = time.process_time()
        for fields in ({}, {"content_encoding": "deflate"}):
            refusal_of(body, **fields)
        assert time.process_time() - began < 1.0


@given(st.binary(max_size=80), st.sampled_from([None, "gzip", "deflate", "br"]))
def test_every_body_yields_a_request_or_the_documented_error(body: bytes, encoding: str | None) -> None:
    for data in (body, dotnet(body), gzip.compress(body), b"\xff\xfe" + body, b"{\0" + body):
        try:
            request_of(data, content_encoding=encoding)
        except InvalidRequest as refusal:
            assert refusal.message.startswith(("The body ", "This is not"))  # noqa: PT017 - either way is right


@given(st.binary(max_size=80))
def test_the_reader_of_binary_xml_raises_one_error(data: bytes) -> None:
    with contextlib.suppress(NotText):
        text_of(dotnet(data))
