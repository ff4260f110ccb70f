"""Measures by how much this machine's clock differs from that of Service Bus, from the times in its answers."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from datetime import datetime

from flow_contracts.servicebus.events import log_event

_log = logging.getLogger(__name__)

_JITTER_SECONDS = 2.0
"""A smaller difference is no fault: clocks of servers differ, and answers take time."""
_LOGGED_CHANGE_SECONDS = 5.0


class ClockSkew:
    """Bounds of the seconds by which this machine's clock is ahead of the broker's. See `ClockEvidence`.

    Nothing is decided by the skew: the broker alone judges locks. It explains a failure, and a person sets the clock.
    """

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._low, self._high = -math.inf, math.inf
        self._logged = 0.0

    def at_least(self, moment: datetime, at: float) -> None:
        """At the monotonic time `at`, the broker's clock had reached `moment`."""
        self._high = min(self._high, high := self._wall_at(at) - moment.timestamp())
        if self._low > self._high:
            self._low, self._high = -math.inf, high  # a clock was set, so the newest evidence counts alone
        self._log_change()

    def at_most(self, moment: datetime, at: float) -> None:
        """At the monotonic time `at`, the broker's clock had not passed `moment`."""
        self._low = max(self._low, low := self._wall_at(at) - moment.timestamp())
        if self._low > self._high:
            self._low, self._high = low, math.inf
        self._log_change()

    @property
    def seconds(self) -> float:
        """The seconds by which this machine's clock is ahead, at least; negative if it is behind; 0 if it agrees."""
        if self._low > _JITTER_SECONDS:
            return self._low
        return self._high if self._high < -_JITTER_SECONDS else 0.0

    @property
    def sentence(self) -> str | None:
        """The sentence that says so; None if the clock agrees as far as is known."""
        return offset_sentence(self.seconds)

    def _wall_at(self, at: float) -> float:
        return self._wall() - (self._monotonic() - at)

    def _log_change(self) -> None:
        """Log a skew once, and again when it has changed."""
        seconds = self.seconds
        if abs(seconds - self._logged) <= _LOGGED_CHANGE_SECONDS or (sentence := offset_sentence(seconds)) is None:
            return
        self._logged = seconds
        log_event(_log, logging.WARNING, "clock.offset", f"{sentence}.", offset_seconds=round(seconds))


def offset_sentence(seconds: float) -> str | None:
    """Return the sentence about a clock that is ahead by so many seconds, without a full stop; None for zero."""
    if not seconds:
        return None
    side = "ahead of" if seconds > 0 else "behind"
    return f"this machine's clock is at least {abs(seconds):.0f} s {side} Service Bus's; synchronise it"
