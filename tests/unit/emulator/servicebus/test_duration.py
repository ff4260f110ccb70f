"""Durations and timestamps in the service's format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_emulator.servicebus.duration import (
    MAX_DURATION,
    MAX_SECONDS,
    format_duration,
    format_timestamp,
    parse_duration,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (60, "PT1M"),
        (13, "PT13S"),
        (662, "PT11M2S"),
        (25 * 86_400, "P25D"),
        (90_061.5, "P1DT1H1M1.5S"),
        (0.25, "PT0.25S"),
        (0, "PT0S"),
        (MAX_SECONDS, MAX_DURATION),
    ],
)
def test_a_duration_is_formatted_like_the_services(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert parse_duration(text) == seconds


@given(st.integers(0, 10**12))
def test_a_formatted_duration_is_parsed_back_to_the_millisecond(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(min(seconds, MAX_SECONDS), abs=0.0005)


def test_the_longest_duration_of_the_sdk_means_no_limit() -> None:
    assert format_duration(parse_duration("P10675199DT2H48M5.477539S")) == MAX_DURATION


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "5", "P1Y", "P1M", "-PT5M", "PT5M ", "PT1S1M", "P\u0661D", "PT" + "9" * 99 + "S"]
)
def test_an_invalid_duration_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="PT5M or P1DT12H"):
        parse_duration(text)


def test_a_timestamp_is_formatted_to_the_millisecond() -> None:
    assert format_timestamp(1618852986.2531) == "2021-04-19T17:23:06.253Z"
