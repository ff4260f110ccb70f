"""Lets the calls of a flow resume one by one after a pause or with the breaker half-open."""

from __future__ import annotations


class RecoveryRamp:
    """Allows one call at a time after `restart`, and one more with each success, up to `max_in_flight`.

    One call is enough to learn whether a flow has recovered. A hundred at once would cause the next throttling, or fail
    a hundred requests.
    """

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self.allowed = max_in_flight
        """The number of calls, begun since the pause, that may be in flight."""

    @property
    def is_complete(self) -> bool:
        """True once the ramp limits nothing any more."""
        return self.allowed >= self._max_in_flight

    def restart(self) -> None:
        """Allow a single call."""
        self.allowed = 1

    def record_success(self) -> None:
        """Allow one more call."""
        self.allowed = min(self.allowed + 1, self._max_in_flight)
