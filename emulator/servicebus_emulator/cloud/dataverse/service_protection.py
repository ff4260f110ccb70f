"""The service protection limits: the requests of one caller in a sliding window.

Source: Microsoft Learn, "Service protection API limits". The service counts per user and web server. It also limits
the execution time and the concurrent requests; a fault with the code of that limit shows its answer.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable

from pydantic import Field

from servicebus_emulator.cloud.fields import Definition, Seconds


class RequestLimit(Definition):
    """The most requests of a caller in a window."""

    requests: int = Field(default=6000, ge=1)
    window_seconds: Seconds = Field(default=300, gt=0)


class RequestCounter:
    """Counts the requests of each caller."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    def wait_seconds(self, caller: str, limit: RequestLimit) -> int | None:
        """Count a request; None if it is within the limit, else the seconds until another one is."""
        now, times = self._clock(), self._times[caller]
        while times and times[0] <= now - limit.window_seconds:
            times.popleft()
        if len(times) >= limit.requests:
            return max(1, math.ceil(times[0] + limit.window_seconds - now))
        times.append(now)
        return None
