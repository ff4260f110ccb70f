"""Tells the broker's time, whatever this machine's clock shows.

Due times, expiry times and the leases of the journal are compared with times of the broker or of other workers. A
machine whose clock is ten minutes off would schedule into the past, or expire what is fresh.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from flow_contracts.servicebus import drift
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_LOGGED_CHANGE_SECONDS = 5.0
_JITTER_SECONDS = 1.0
"""A clock that the evidence contradicts by less is adjusted, and not replaced by another one."""


@dataclass(slots=True)
class _Bound:
    """A bound of the difference between the broker's clock and the monotonic one."""

    value: float
    at: float


class BrokerClock:
    """The monotonic clock plus a difference, which starts as this machine's clock shows it.

    Deliveries and renewals bound the difference from both sides. While the machine's clock lies within the bounds,
    nothing is corrected: a message that waited long proves little, and must not make a right clock wrong. If the clock
    lies outside, it is wrong. The clock then shows the latest time that the broker has provably reached. Fresh messages
    carry such a time, so a due time computed from it comes true.

    Jumps of this machine's clock have no effect. A machine's clock that a person sets right counts again as soon as the
    evidence contradicts the old one.
    """

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._started_with = wall() - monotonic()
        self._low: _Bound | None = None
        self._high: _Bound | None = None
        self._logged_offset = 0.0

    def now(self) -> datetime:
        """Return the broker's time in UTC, aware."""
        return datetime.fromtimestamp(self._monotonic() + self._difference(), UTC)

    def reached(self) -> datetime:
        """Return the latest time in UTC that the broker has provably reached; without evidence, `now`.

        A clock that is ahead by less than a lock's duration lies within the bounds and is not corrected. What must not
        happen too early, such as the expiry of a request or the take-over of a lease, is judged by this time.
        """
        if self._low is None:
            return self.now()
        monotonic = self._monotonic()
        return min(self.now(), datetime.fromtimestamp(monotonic + self._lowest(monotonic), UTC))

    @property
    def has_evidence(self) -> bool:
        """Return whether the broker has proven a time since the start; `reached` returns this machine's time before."""
        return self._low is not None

    @property
    def offset_seconds(self) -> float:
        """The seconds by which this machine's clock is ahead of the broker's; negative if it is behind."""
        return self._wall() - self._monotonic() - self._difference()

    def at_least(self, moment: datetime, at: float) -> None:
        """At the monotonic time `at`, the broker's clock had reached `moment`."""
        value = moment.timestamp() - at
        if self._low is None or value >= self._lowest(at):
            self._low = _Bound(value, at)
        if self._high is not None and value > self._highest(at):
            # The newer evidence counts. The monotonic clock of a machine that slept has lost that time.
            self._high = None
        self._log_change()

    def at_most(self, moment: datetime, at: float) -> None:
        """At the monotonic time `at`, the broker's clock had not passed `moment`."""
        value = moment.timestamp() - at
        if self._high is None or value <= self._highest(at):
            self._high = _Bound(value, at)
        if self._low is not None and value < self._lowest(at):
            self._low = None  # the broker set its clock back
        self._log_change()

    def _difference(self) -> float:
        monotonic = self._monotonic()
        low, high = self._lowest(monotonic), self._highest(monotonic)
        for candidate in (self._started_with, self._wall() - monotonic):
            if low - _JITTER_SECONDS <= candidate <= high + _JITTER_SECONDS:
                return min(max(candidate, low), high)
        # Without a lower bound, the upper one alone contradicts the clock.
        return low if self._low is not None else high

    def _lowest(self, monotonic: float) -> float:
        return float("-inf") if self._low is None else self._low.value - drift(self._low.at, monotonic)

    def _highest(self, monotonic: float) -> float:
        return float("inf") if self._high is None else self._high.value + drift(self._high.at, monotonic)

    def _log_change(self) -> None:
        """Log an offset once, and again when it has changed: a line for each message would hide the others."""
        offset = self.offset_seconds
        if abs(offset - self._logged_offset) <= _LOGGED_CHANGE_SECONDS:
            return
        self._logged_offset = offset
        log(_log, logging.WARNING, "clock.offset", _sentence(offset), offset_seconds=round(offset, 1))


def _sentence(offset: float) -> str:
    if abs(offset) <= _LOGGED_CHANGE_SECONDS:
        return "This machine's clock agrees with the broker's again."
    side = "ahead of" if offset > 0 else "behind"
    return (
        f"This machine's clock is {abs(offset):.0f} s {side} the broker's; the worker corrects for it. "
        "Synchronise the clock."
    )
