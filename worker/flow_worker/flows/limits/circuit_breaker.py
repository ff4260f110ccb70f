"""Stops the calls of a flow that only fails, and lets them resume gradually."""

from __future__ import annotations

from datetime import datetime

from flow_worker.flows.limits.growing_pause import GrowingPause


class CircuitBreaker:
    """Opens for `open_seconds` after `max_failures` failures in a row.

    Once that time is over the breaker is half-open: `RecoveryRamp` then lets one call through. The failure count stays
    at its maximum, so one more failure opens the breaker again at once. Each opening lasts twice as long as the one
    before, up to `max_open_seconds`. A success closes the breaker and makes the next opening short again.
    """

    def __init__(self, max_failures: int, open_seconds: float, max_open_seconds: float) -> None:
        self._max_failures = max_failures
        self._pause = GrowingPause(open_seconds, max(open_seconds, max_open_seconds))
        self.failures_in_a_row = 0

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
        self.failures_in_a_row = 0
        self._pause.reset()

    def record_failure(self, now: datetime) -> bool:
        """Count a failure. Return whether it opened the breaker."""
        self.failures_in_a_row += 1
        if self.failures_in_a_row < self._max_failures:
            return False
        self._pause.begin(now)
        return True
