"""Properties keep their values and types in HTTP headers."""

from __future__ import annotations

import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_emulator.admin.properties import (
    RESERVED,
    read_broker_properties,
    read_headers,
    read_json,
    write_headers,
)
from servicebus_emulator.amqp import Long, Timestamp
from servicebus_emulator.servicebus.errors import ServiceBusError

VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1).map(Long),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cc", "Cs"])),
    st.integers(0, 4_000_000_000).map(lambda seconds: Timestamp(seconds * 1000)),
)
NAMES = st.text(string.ascii_letters, min_size=1).filter(lambda name: name.lower() not in RESERVED)


def back(headers: dict[str, str]) -> dict[str, object]:
    return read_headers((name.encode(), value.encode()) for name, value in headers.items())


@given(st.dictionaries(NAMES, VALUES))
def test_properties_survive_writing_to_headers_and_reading_back(properties: dict[object, object]) -> None:
    read = back(write_headers(properties))
    assert read == properties
    assert [type(value) for value in read.values()] == [type(value) for value in properties.values()]


def test_properties_without_a_header_form_are_omitted() -> None:
    properties: dict[object, object] = {
        "bytes": b"x",
        "nothing": None,
        "a b": "x",
        "Content-Length": "5",
        "x-ms-date": "x",
        "NaN": "x\r\nSet-Cookie: y",
        "id": uuid.UUID(int=1),
    }
    assert write_headers(properties) == {
        "NaN": '"x  Set-Cookie: y"',
        "id": '"00000000-0000-0000-0000-000000000001"',
    }


@pytest.mark.parametrize("value", ["world", '"open', "True", "1e", "nan", "inf", "--1", "0x1", "1_000", "\u0663", ""])
def test_a_value_that_is_neither_text_nor_number_is_refused_by_name(value: str) -> None:
    with pytest.raises(ServiceBusError, match="HTTP header Hello is invalid"):
        back({"Hello": value})


def test_a_number_above_64_bits_is_refused() -> None:
    with pytest.raises(ServiceBusError, match="64-bit"):
        back({"Big": str(2**63)})
    with pytest.raises(ServiceBusError, match="64-bit"):
        read_json({"Big": 2**64})


def test_an_impossible_date_is_a_text() -> None:
    assert back({"When": '"Mon, 99 Foo 2011 08:49:37 GMT"'}) == {"When": "Mon, 99 Foo 2011 08:49:37 GMT"}


@pytest.mark.parametrize(
    ("properties", "seconds"),
    [
        ("{}", None),
        ('{"TimeToLive": 90}', 90),
        ('{"TimeToLive": 0.5}', 0.5),
        ('{"TimeToLiveTimeSpan": "1.02:03:04.5"}', 93784.5),
        ('{"TimeToLiveTimeSpan": "00:00:40"}', 40),
        ('{"TimeToLive": 922337203685.47754}', None),
    ],
)
def test_a_time_to_live_is_a_number_of_seconds_or_a_time_span(properties: str, seconds: float | None) -> None:
    assert read_broker_properties(properties).ttl_seconds() == seconds
