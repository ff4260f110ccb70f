"""Stops the calls of a flow that only fails, and lets them resume gradually."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from flow_worker.flows.limits.growing_pause import GrowingPause

_MIN_SENDERS = 2
"""So many senders must fail before failures count that one sender's input may have caused."""


class CircuitBreaker:
    """Opens for `open_seconds` after `max_failures` failures in a row.

    A failure that shows the flow or its host to be down counts at once. Any other failure may be due to the input. One
    sender must not stop a flow for the others with such an input, so these failures count once two senders had one.

    Once that time is over the breaker is half-open: `RecoveryRamp` then lets one call through. The failure count stays
    at its maximum, so one more failure opens the breaker again at once. Each opening lasts twice as long as the one
    before, up to `max_open_seconds`. A success closes the breaker and makes the next opening short again.
    """

    def __init__(self, max_failures: int, open_seconds: float, max_open_seconds: float) -> None:
        self._max_failures = max_failures
        self._pause = GrowingPause(open_seconds, max(open_seconds, max_open_seconds))
        self._outages = 0
        self._failed_runs: Counter[str] = Counter()
        """The failures that an input may have caused, by sender."""

    @property
    def failures_in_a_row(self) -> int:
        """The number of failures that count against the flow."""
        return self._outages + (self._failed_runs.total() if self._has_failed_for_several else 0)

    @property
    def open_until(self) -> datetime:
        """The end of the latest opening."""
        return self._pause.until

    @property
    def has_opened(self) -> bool:
        """True from an opening to the next success: the breaker is open or half-open."""
        return self._pause.repetitions > 0

    def record_success(self) -> None:
        """Close the breaker."""
        self._outages = 0
        self._failed_runs.clear()
        self._pause.reset()

    def record_outage(self, now: datetime) -> bool:
        """Count a failure that shows the flow or its host to be down. Return whether it opened the breaker."""
        self._outages += 1
        return self._open_after_too_many(now)

    def record_failed_run(self, sender: str, now: datetime) -> bool:
        """Count a failure that the sender's input may have caused. Return whether it opened the breaker."""
        self._failed_runs[sender] += 1
        return self._has_failed_for_several and self._open_after_too_many(now)

    @property
    def _has_failed_for_several(self) -> bool:
        return len(self._failed_runs) >= _MIN_SENDERS

    def _open_after_too_many(self, now: datetime) -> bool:
        if self.failures_in_a_row < self._max_failures:
            return False
        self._pause.begin(now)
        return True
