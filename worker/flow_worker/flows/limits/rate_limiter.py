"""How many calls there were in the last so many seconds."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta


class Window:
    """A sliding window over the times of the calls themselves.

    Exact, at the price of one time per call. A token bucket would be smaller, but lets through up to twice its size in
    one window: a full bucket, and what flows in meanwhile.
    """

    def __init__(self, max_calls: int, seconds: float) -> None:
        self._max = max_calls
        self._length = timedelta(seconds=seconds)
        self._calls: deque[datetime] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def slide(self, now: datetime) -> None:
        """Forget the calls that are older than the window. To be done before anything is asked."""
        while self._calls and self._calls[0] <= now - self._length:
            self._calls.popleft()

    def add(self, now: datetime) -> None:
        """There is a call now."""
        self._calls.append(now)

    @property
    def free(self) -> int:
        """How many calls there may be now."""
        return self._max - len(self._calls)

    def free_at(self, nth: int, now: datetime) -> datetime:
        """When the `nth` (from 0) of those who wait may call, if those before it call as soon as they may."""
        if nth < self.free:
            return now
        rounds, place = divmod(nth - self.free, self._max)
        earliest = self._calls[place] if place < len(self._calls) else now
        return earliest + (rounds + 1) * self._length
