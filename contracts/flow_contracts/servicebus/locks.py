"""Times message locks by the monotonic clock, and keeps the SDK from judging them by this machine's clock.

A broker states the end of a lock by its own clock. A machine whose clock is wrong cannot tell from it whether a lock
still holds. Only the broker knows, and it says so when a receiver renews or settles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

MAX_LOCK_SECONDS = 300.0
"""The longest lock duration that Service Bus accepts for a queue."""
_CAUTIOUS_SECONDS = 5.0
"""The shortest lock duration of Service Bus: the assumption while the evidence contradicts itself."""
_DRIFT = 1e-3
_JITTER_SECONDS = 1.0
_NEVER = datetime.max.replace(tzinfo=UTC)


class ClockEvidence(Protocol):
    """Learns from the broker's times what the broker's clock shows."""

    def at_least(self, moment: datetime, at: float) -> None:
        """At the monotonic time `at`, the broker's clock had reached `moment`."""
        ...

    def at_most(self, moment: datetime, at: float) -> None:
        """At the monotonic time `at`, the broker's clock had not passed `moment`."""
        ...


class NoEvidence:
    """Ignores the broker's times, for callers that compare no times with the broker's."""

    def at_least(self, moment: datetime, at: float) -> None:
        """Ignore it."""

    def at_most(self, moment: datetime, at: float) -> None:
        """Ignore it."""


class LockTimes:
    """The lock times of one queue: estimates lifetimes, and reports what they prove about the broker's clock.

    The lock duration of a queue is at most the time between a message's enqueueing and the end of its lock. The least
    such time is the duration itself as soon as one message did not wait. A person may lengthen the duration, or create
    the queue again with a longer one. The ends of locks then move on against the monotonic clock, and the estimate
    grows as far as they have moved. All receivers of a queue share one object.
    """

    def __init__(
        self,
        evidence: ClockEvidence,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._evidence = evidence
        self._wall = wall
        self._monotonic = monotonic
        self._max_duration = MAX_LOCK_SECONDS
        self._ends: tuple[float, float] | None = None
        """Bounds of the end of a lock on the broker's clock, less the monotonic time at which the lock began."""
        self._seen_at = 0.0

    def delivered(self, enqueued_at: datetime | None, until: datetime | None, began: float) -> float:
        """Return the monotonic time at which the lock of a delivery ends, by estimate.

        `began` is the monotonic time at which the receive began.
        """
        received = self._monotonic()
        if enqueued_at is not None:
            self._evidence.at_least(enqueued_at, received)
        if until is None:
            return began + _CAUTIOUS_SECONDS
        self._follow_duration(until, began, received)
        if enqueued_at is not None:
            # At least a second: two servers of the broker may disagree about the time by a little.
            waited = (until - enqueued_at).total_seconds()
            self._max_duration = min(self._max_duration, max(1.0, waited))
        self._evidence.at_least(_earlier(until, self._max_duration), received)
        if until.timestamp() <= self._wall():
            return began  # expired, or the clock is ahead: only a renewal can tell
        return self._end(until, received, began)

    def renewed(self, until: datetime, asked: float) -> float:
        """Return the monotonic time at which a renewed lock ends, by estimate; `asked`: when the renewal began."""
        answered = self._monotonic()
        self._follow_duration(until, asked, answered)
        self._evidence.at_least(_earlier(until, self._max_duration), answered)
        self._evidence.at_most(until, asked)  # the broker had not granted this end yet
        return self._end(until, answered, asked)

    def _follow_duration(self, until: datetime, earliest: float, latest: float) -> None:
        """Raise the estimate of the lock duration if locks end later than before; they began between the two times.

        The broker's clock may have moved on instead. The estimate may then be too long, which proves less, but nothing
        false. The next message that did not wait corrects it.
        """
        low, high = until.timestamp() - latest, until.timestamp() - earliest
        loosened = drift(self._seen_at, latest)
        before, self._seen_at = self._ends, latest
        self._ends = (low, high)
        if before is None:
            return
        if low > before[1] + loosened + _JITTER_SECONDS:
            self._max_duration = min(MAX_LOCK_SECONDS, self._max_duration + high - before[0])
        elif high >= before[0] - loosened - _JITTER_SECONDS:  # the same duration as before
            self._ends = (max(low, before[0] - loosened), min(high, before[1] + loosened))

    def _end(self, until: datetime, now: float, earliest: float) -> float:
        """Return when the lock ends. It began between `earliest` and `now`.

        This machine's clock and the queue's lock duration are independent sources. If they agree, the end is known. If
        not, the clock is wrong or every message waited, and the shortest possible lock is the safe assumption: a
        renewal that comes too early does no harm.
        """
        left = until.timestamp() - self._wall()
        if left > 0 and abs(left - self._max_duration) <= max(2.0, self._max_duration / 10):
            return now + min(left, self._max_duration)
        cautious = min(self._max_duration, _CAUTIOUS_SECONDS)
        # A short rest may be true: a machine that stood still receives its messages late.
        return earliest + (min(left, cautious) if left > 0 else cautious)


def drift(since: float, until: float) -> float:
    """Return the seconds by which a bound of the broker's clock loosens between two monotonic times.

    Monotonic clocks drift, and brokers adjust their clocks.
    """
    return max(0.0, until - since) * _DRIFT


def _earlier(moment: datetime, seconds: float) -> datetime:
    return datetime.fromtimestamp(moment.timestamp() - seconds, UTC)


def broker_decides(raw: ServiceBusReceivedMessage) -> datetime | None:
    """Return the end of the message's lock by the broker's clock, and keep the SDK from judging by it.

    The SDK settles no message whose lock ends in the past of this machine's clock. A clock that is ahead, or jumps
    while a flow runs, would so lose every message. The broker confirms or refuses each settlement anyway, so the
    check adds nothing. A renewal restores the end in the message, so it needs another call of this function.
    """
    until: datetime | None = raw.locked_until_utc
    if until is not None:
        raw._expiry = _NEVER
    return until


def broker_decides_session(sdk: ServiceBusReceiver) -> datetime | None:
    """Do the same for the lock of the receiver's session, which the SDK checks before every call."""
    until: datetime | None = sdk.session.locked_until_utc
    if until is not None:
        sdk.session._locked_until_utc = _NEVER
    return until
