"""Growing pauses between attempts."""

from __future__ import annotations

from collections.abc import Iterator

_GROWTH = 1.6


def backoff(first_seconds: float, max_seconds: float) -> Iterator[float]:
    """The pauses between attempts, in seconds: growing from `first_seconds` to `max_seconds`, without end."""
    pause = min(first_seconds, max_seconds)
    while True:
        yield pause
        pause = min(pause * _GROWTH, max_seconds)
