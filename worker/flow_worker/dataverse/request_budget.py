"""The part of an organization's request limit that deliveries may use.

Dataverse accepts 6,000 requests of one user in 5 minutes (Microsoft Learn, "Service protection API limits"). After
that it refuses the queries for privileges too, and requests would wait for their rows and those of others.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.limits.rate_limiter import RateLimiter

WINDOW_SECONDS = 300.0
_SENTENCE = "the deliveries have used their part of Dataverse's request limit (dataverse.max_delivery_requests)"


class BudgetSpent(TemporarilyUnavailable):
    """The request was not sent: it has to wait until its turn."""

    def __init__(self, turn: datetime) -> None:
        super().__init__("dataverse_throttled", _SENTENCE, until=turn)
        self.turn = turn


class RequestBudget:
    """Counts the requests of deliveries and of the search for flow runs."""

    def __init__(self, max_requests: int, now: Callable[[], datetime]) -> None:
        """`max_requests`: in any 5 minutes, of this process."""
        self._limiter = RateLimiter(max_requests, WINDOW_SECONDS)
        self._now = now
        self._waiting = 0

    def spend(self) -> None:
        """Count one request. Raises `BudgetSpent` with the time of its turn if there is none left."""
        now = self._now()
        self._limiter.slide(now)
        if self._limiter.free > 0:
            self._limiter.record(now)
            self._waiting = max(0, self._waiting - 1)
            return
        # Each one that waits gets a later time, so that they do not all come back at once.
        turn = self._limiter.free_at(self._waiting, now)
        self._waiting += 1
        raise BudgetSpent(turn)
