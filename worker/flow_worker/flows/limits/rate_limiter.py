"""Limits the number of calls in any window of a given length."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta


class RateLimiter:
    """A sliding window over the times of the calls themselves.

    The window is exact, at the price of one stored time per call. A token bucket would be smaller, but would let
    through twice its size in one window: a full bucket, and the tokens that arrive meanwhile.
    """

    def __init__(self, max_calls: int, window_seconds: float) -> None:
        self._max_calls = max_calls
        self._window_seconds = window_seconds
        self._window = timedelta(seconds=window_seconds)
        self._calls: deque[datetime] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def slide(self, now: datetime) -> None:
        """Forget the calls that left the window. Call this before the other methods."""
        while self._calls and self._calls[0] <= now - self._window:
            self._calls.popleft()

    def record(self, now: datetime) -> None:
        """Count a call that begins now."""
        self._calls.append(now)

    @property
    def free(self) -> int:
        """The number of calls that may begin now."""
        return self._max_calls - len(self._calls)

    @property
    def seconds_per_call(self) -> float:
        """The average distance of two calls at the full rate."""
        return self._window_seconds / self._max_calls

    def free_at(self, nth: int, now: datetime) -> datetime:
        """Return when the `nth` waiting request (from 0) may call, if those before it call as early as they may."""
        if nth < self.free:
            return now
        # Each stored call makes room for one waiting request when it leaves the window. That request's own call makes
        # room for another request one window later, and so on.
        rounds, index = divmod(nth - self.free, self._max_calls)
        earliest = self._calls[index] if index < len(self._calls) else now
        return earliest + (rounds + 1) * self._window
