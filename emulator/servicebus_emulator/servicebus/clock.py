"""The clock of the broker. Tests move it forward instead of waiting for locks, schedules and times to live."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns the seconds since the epoch."""


class MovableClock:
    """The machine's clock plus an offset that only grows."""

    def __init__(self) -> None:
        self._offset_seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self._offset_seconds

    def advance(self, seconds: float) -> None:
        """Move the clock forward.

        Raises `ValueError` if `seconds` is negative or not finite: events that have happened cannot be undone.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"the clock cannot be moved by {seconds} seconds; it goes forward only")
        self._offset_seconds += seconds
