"""ISO 8601 durations and timestamps as the service writes them: `PT5M`, `2021-04-19T17:23:06.253Z`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

MAX_SECONDS = 10_675_199 * 86_400.0
"""The whole days of the longest .NET `TimeSpan`. The service uses this value where a setting has no limit."""
MAX_DURATION = "P10675199DT2H48M5.4775807S"
"""`TimeSpan.MaxValue` as the service writes it."""
MIN_TIMESTAMP = "0001-01-01T00:00:00Z"
"""`DateTime.MinValue`. The service returns it for an event that has not happened yet."""

_PARTS = re.compile(
    r"P(?:(?P<days>\d{1,9}(?:\.\d{1,9})?)D)?"
    r"(?:T(?:(?P<hours>\d{1,9}(?:\.\d{1,9})?)H)?(?:(?P<minutes>\d{1,9}(?:\.\d{1,9})?)M)?"
    r"(?:(?P<seconds>\d{1,12}(?:\.\d{1,9})?)S)?)?",
    re.ASCII,
)
_UNIT_SECONDS = {"days": 86_400, "hours": 3600, "minutes": 60, "seconds": 1}


def parse_duration(text: str) -> float:
    """Return the seconds of an ISO 8601 duration, at most `MAX_SECONDS`.

    Raises `ValueError` for any other text, and for years and months, which have no fixed length.
    """
    parts = _PARTS.fullmatch(text)
    if parts is None or not any(parts.groupdict().values()):
        raise ValueError("must be an ISO 8601 duration such as PT5M or P1DT12H")
    seconds = sum(float(amount) * _UNIT_SECONDS[unit] for unit, amount in parts.groupdict(default="0").items())
    return min(seconds, MAX_SECONDS)


def format_duration(seconds: float) -> str:
    """Return an ISO 8601 duration, rounded to milliseconds."""
    if seconds >= MAX_SECONDS:
        return MAX_DURATION
    milliseconds = round(seconds * 1000)
    days, milliseconds = divmod(milliseconds, 86_400_000)
    hours, milliseconds = divmod(milliseconds, 3_600_000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    whole = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".")
    time = _part(hours, "H") + _part(minutes, "M") + ("" if whole == "0" else f"{whole}S")
    return f"P{_part(days, 'D')}" + (f"T{time}" if time else "") if days or time else "PT0S"


def format_timestamp(seconds: float) -> str:
    """Return seconds since the epoch as an ISO 8601 timestamp in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _part(amount: int, unit: str) -> str:
    return f"{amount}{unit}" if amount else ""
