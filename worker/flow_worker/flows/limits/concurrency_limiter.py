"""Limits the number of calls in flight, and estimates when the next one ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

SLOW_SECONDS = 5.0
"""A flow is slow if its calls take longer on average, or if one in flight already does."""
MIN_POSTPONEMENT_SECONDS = 0.5
"""No request is postponed for less: the way through the continuation queue would cost more than it saves."""
_UNKNOWN_SECONDS = 1.0
"""The assumed duration of a call until one has ended."""
_MAX_WAIT_CALLS = 4
"""A request waits in its lane for at most the duration of so many calls."""
_MIN_WAIT_SECONDS = 0.05
_SMOOTHING = 0.2
"""The weight of the latest call in the moving average."""


@dataclass(frozen=True, slots=True)
class CallInFlight:
    """A call that has begun and not ended."""

    ticket: str
    began: datetime

    def age(self, now: datetime) -> float:
        """Return the seconds since the call began."""
        return (now - self.began).total_seconds()


class ConcurrencyLimiter:
    """Counts the calls in flight, oldest first, and keeps the moving average of their durations."""

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self._calls: list[CallInFlight] = []
        self.average_seconds: float | None = None
        """None until a call has ended."""

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def free(self) -> int:
        """The number of calls that may begin now."""
        return self._max_in_flight - len(self._calls)

    def begun_since(self, time: datetime) -> int:
        """Return how many of the calls in flight began at `time` or later."""
        return sum(call.began >= time for call in self._calls)

    def begin(self, ticket: str, now: datetime) -> None:
        """Count a call that begins now."""
        self._calls.append(CallInFlight(ticket, now))

    def end(self, ticket: str) -> CallInFlight:
        """Remove the call of the ticket from the calls in flight, and return it."""
        call = next(call for call in self._calls if call.ticket == ticket)
        self._calls.remove(call)
        return call

    def record_duration(self, seconds: float) -> None:
        """Include a call that the flow answered in the average."""
        average = self.average_seconds
        self.average_seconds = seconds if average is None else average + _SMOOTHING * (seconds - average)

    def is_slow(self, now: datetime) -> bool:
        """Return whether the flow's calls take long, or one in flight already does."""
        oldest = self._calls[0].age(now) if self._calls else 0.0
        return max(self.average_seconds or 0.0, oldest) > SLOW_SECONDS

    def is_quick(self, max_seconds: float, now: datetime) -> bool:
        """Return whether the flow's calls are known to end within `max_seconds`, and none in flight takes longer."""
        average = self.average_seconds
        oldest = self._calls[0].age(now) if self._calls else 0.0
        return average is not None and average <= max_seconds and oldest <= _MAX_WAIT_CALLS * max_seconds

    @property
    def seconds_per_call(self) -> float:
        """The expected time between the ends of two calls when all places are taken."""
        average = _UNKNOWN_SECONDS if self.average_seconds is None else self.average_seconds
        return average / self._max_in_flight

    def next_place_seconds(self, now: datetime) -> float:
        """Estimate the seconds until a call ends."""
        if not self._calls:
            return MIN_POSTPONEMENT_SECONDS
        remaining = (self.average_seconds or 0.0) - self._calls[0].age(now)
        # If the oldest call is overdue, the flow may hang, and its average says nothing. The estimate is then the age
        # of the newest call, the time for which no place has become free. It doubles from one attempt to the next. So
        # a request that waits for a hanging flow returns a few times, not dozens of times.
        estimate = remaining if remaining > 0 else self._calls[-1].age(now)
        return max(MIN_POSTPONEMENT_SECONDS, estimate)

    def worthwhile_wait_seconds(self, waiting: int, max_seconds: float, now: datetime) -> float:
        """Return how long one more request, beside `waiting` others, should wait in its lane for a place.

        A request that waits holds a lane. So the result is 0 if no place is likely to become free within `max_seconds`
        and a few calls' duration, or if the duration of the flow's calls is unknown.
        """
        average = self.average_seconds
        if average is None or average > max_seconds:
            return 0.0
        seconds = min(max_seconds, max(_MIN_WAIT_SECONDS, _MAX_WAIT_CALLS * average))
        # Only young calls count as places to come. A flow that begins to hang soon has no young call left, and then no
        # request waits for it any more.
        young = sum(call.age(now) <= seconds for call in self._calls)
        return seconds if young > 0 and (waiting + 1) * average <= young * seconds else 0.0
