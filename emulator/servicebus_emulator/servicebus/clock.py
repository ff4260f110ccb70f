"""A clock that can be moved: locks, schedules and times to live are tested without waiting for them."""

from __future__ import annotations

import time


class MovableClock:
    """Seconds since the epoch. It runs as the machine's does, so much ahead of it as it was moved."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass at once. Raises `ValueError` for less than nothing: what has happened stays so."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"the clock cannot be moved by {seconds} seconds; it goes forward only")
        self._ahead += seconds
