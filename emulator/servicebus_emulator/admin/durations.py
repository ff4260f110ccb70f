"""Durations and moments as the administration writes them: `P10675199DT2H48M5.4775807S`, `2021-04-19T17:23:06.253Z`."""

from __future__ import annotations

from datetime import UTC, datetime

from servicebus_emulator.servicebus.config import NEVER_SECONDS

FOREVER = "P10675199DT2H48M5.4775807S"
"""The longest .NET time span, which the service shows for no limit."""
NO_MOMENT = "0001-01-01T00:00:00Z"
"""What the service shows for a moment that has not been."""


def from_seconds(seconds: float) -> str:
    """An ISO 8601 duration."""
    if seconds >= NEVER_SECONDS:
        return FOREVER
    milliseconds = round(seconds * 1000)
    days, milliseconds = divmod(milliseconds, 86_400_000)
    hours, milliseconds = divmod(milliseconds, 3_600_000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    whole = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".")
    time = _part(hours, "H") + _part(minutes, "M") + ("" if whole == "0" else f"{whole}S")
    return f"P{_part(days, 'D')}" + (f"T{time}" if time else "") if days or time else "PT0S"


def moment(seconds: float) -> str:
    """A moment (seconds since the epoch) in ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _part(amount: int, unit: str) -> str:
    return f"{amount}{unit}" if amount else ""
