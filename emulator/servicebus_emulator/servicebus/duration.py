"""ISO 8601 durations, as configuration and administration write them: `PT5M`, `P10675199DT2H48M5.4775807S`."""

from __future__ import annotations

import re

NEVER_SECONDS = 10_675_199 * 86_400.0
"""What the service says for no time to live: the longest .NET time span."""

_PARTS = re.compile(
    r"P(?:(?P<days>\d{1,9}(?:\.\d{1,9})?)D)?"
    r"(?:T(?:(?P<hours>\d{1,9}(?:\.\d{1,9})?)H)?(?:(?P<minutes>\d{1,9}(?:\.\d{1,9})?)M)?"
    r"(?:(?P<seconds>\d{1,12}(?:\.\d{1,9})?)S)?)?",
    re.ASCII,
)
_LONG = {"days": 86_400, "hours": 3600, "minutes": 60, "seconds": 1}


def to_seconds(text: str) -> float:
    """The seconds of an ISO 8601 duration without years and months. Raises `ValueError` if it is none."""
    parts = _PARTS.fullmatch(text)
    if parts is None or not any(parts.groupdict().values()):
        raise ValueError("must be an ISO 8601 duration such as PT5M or P1DT12H")
    seconds = sum(float(amount) * _LONG[unit] for unit, amount in parts.groupdict(default="0").items())
    return min(seconds, NEVER_SECONDS)
