"""Decides whether a request may call its flow now, and when it should return otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Literal, assert_never

from flow_worker.flows.limits.circuit_breaker import CircuitBreaker
from flow_worker.flows.limits.concurrency_limiter import MIN_POSTPONEMENT_SECONDS, ConcurrencyLimiter
from flow_worker.flows.limits.growing_pause import LONG_AGO
from flow_worker.flows.limits.rate_limiter import RateLimiter
from flow_worker.flows.limits.recovery_ramp import RecoveryRamp
from flow_worker.flows.limits.throttle_pause import ThrottlePause
from flow_worker.flows.limits.waiting_queue import WaitingQueue
from flow_worker.flows.verdict import FlowHealth

LimitCode = Literal[
    "flow_busy", "flow_throttled", "flow_rate_limited", "flow_circuit_open", "sender_busy", "sender_rate_limited"
]
"""`flow_busy`: too many calls in flight. `flow_throttled`: the flow answered 429. `flow_rate_limited`: too many calls
in the window. `flow_circuit_open`: the flow only failed. The others are those of a single sender.
"""

_MAX_ESTIMATE_SECONDS = 60.0
"""An estimate further in the future is worthless."""
_OWED_PART = 1 / 4
"""The part of the places (at least one) that stays free for requests with an earlier turn. Not all of them, because
those requests may be with another replica and never return here.
"""


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """The limits on the calls of one flow by this process."""

    max_in_flight: int
    max_calls: int
    """In any `window_seconds`."""
    window_seconds: float
    breaker_failures: int
    """The number of failures in a row that opens the circuit breaker for `breaker_seconds`."""
    breaker_seconds: float
    """Doubles each time the flow is tried again and fails, up to `breaker_max_seconds`."""
    breaker_max_seconds: float


@dataclass(frozen=True, slots=True)
class Postponement:
    """The request must return at `until`; its flow may not be called before."""

    until: datetime
    code: LimitCode
    cause: str
    """One clause for people."""


@dataclass(frozen=True, slots=True)
class FlowState:
    """The state of one flow's limits, to explain why its requests wait."""

    in_flight: int
    waiting: int
    """Postponed requests that are expected back."""
    calls_in_window: int
    average_seconds: float | None
    failures_in_a_row: int
    closed: Postponement | None
    """The pause or the open circuit breaker that stops all calls, if there is one."""
    beyond_shares: int = 0
    """Postponed requests beyond their senders' shares of the flow. They wait in the senders' own queues."""

    @property
    def all_waiting(self) -> int:
        """The number of requests that wait for the flow."""
        return self.waiting + self.beyond_shares


@dataclass(frozen=True, slots=True)
class LimitReached:
    """The limit that a call meets. `not_before` is set if the end of the limit is certain, not estimated."""

    code: LimitCode
    cause: str
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Bound:
    free: int
    size: int
    reached: LimitReached


class FlowLimiter:
    """Composes the rate limiter, the concurrency limiter, the circuit breaker and the waiting queue of one flow."""

    def __init__(self, limits: FlowLimits, max_in_flight: int) -> None:
        """`max_in_flight` limits the calls in flight further than `limits` do."""
        self._max_calls = limits.max_calls
        self._max_in_flight = min(limits.max_in_flight, max_in_flight)
        self._rate = RateLimiter(limits.max_calls, limits.window_seconds)
        self._concurrency = ConcurrencyLimiter(self._max_in_flight)
        self._pause = ThrottlePause()
        self._breaker = CircuitBreaker(limits.breaker_failures, limits.breaker_seconds, limits.breaker_max_seconds)
        self._ramp = RecoveryRamp(self._max_in_flight)
        self._queue = WaitingQueue()
        self._answered_at = LONG_AGO
        """The end of the latest call that the flow answered."""

    # --- may a request call? -------------------------------------------------------------------------------------

    def limit_reached(self, ticket: str, now: datetime, *, taken: int = 0) -> LimitReached | None:
        """Return the limit that keeps `ticket` from calling now; None if it may call.

        `taken`: the number of places that count as taken beside those of the calls in flight.
        """
        self._rate.slide(now)
        # Before the count of owed calls: a ticket that went to another replica must not hold a place here.
        self._queue.forget_absent(ticket, now)
        if (closed := self.closed(now)) is not None:
            return closed
        owed = self._queue.owed_before(ticket, now)
        for bound in self._bounds(taken):
            if bound.free <= min(owed, ceil(bound.size * _OWED_PART)):
                return bound.reached
        return None

    def begin(self, ticket: str, now: datetime) -> None:
        """Record that the ticket calls now."""
        self._queue.remove(ticket)
        self._rate.record(now)
        self._concurrency.begin(ticket, now)

    def postpone(self, ticket: str, reached: LimitReached, now: datetime, *, sender: str = "") -> Postponement:
        """Keep a place for the ticket, and return when it is likely to be its turn."""
        due = self._due(self._queue.ahead_of(ticket), reached, now)
        self._queue.put(ticket, due, sender)
        return Postponement(due, reached.code, reached.cause)

    def forget(self, ticket: str) -> None:
        """Keep no place for the ticket any more."""
        self._queue.remove(ticket)

    def expected(self, now: datetime) -> int:
        """Return the number of requests that wait here."""
        return self._queue.expected(now)

    def expected_by_sender(self, now: datetime) -> Mapping[str, int]:
        """Return the number of requests that wait here, by the `sender` that `postpone` got."""
        return self._queue.expected_by_sender(now)

    def turns_of(self, sender: str, besides: str) -> int:
        """Return how many requests of the sender wait here, without the ticket `besides`."""
        return self._queue.count_of(sender, besides)

    def closed(self, now: datetime) -> LimitReached | None:
        """Return the pause or the open circuit breaker that stops all calls, if there is one."""
        # Both can be in force at once. The one that ends last decides, so that requests do not return too early.
        if now < self._breaker.open_until and self._breaker.open_until >= self._pause.until:
            cause = "the flow only failed of late, so its circuit breaker is open"
            return LimitReached("flow_circuit_open", cause, self._breaker.open_until)
        if now < self._pause.until:
            return LimitReached("flow_throttled", "the flow asked for fewer calls", self._pause.until)
        return None

    def _bounds(self, taken: int) -> list[_Bound]:
        rate = LimitReached("flow_rate_limited", "the flow was called as often as its rate limit allows")
        concurrency = LimitReached("flow_busy", "as many calls of the flow are in flight as its limit allows")
        bounds = [
            _Bound(self._rate.free, self._max_calls, rate),
            _Bound(self._concurrency.free - taken, self._max_in_flight, concurrency),
        ]
        if not self._ramp.is_complete:
            code: LimitCode = "flow_circuit_open" if self._breaker.has_opened else "flow_throttled"
            recovering = LimitReached(code, "the flow recovers and is called one by one")
            # Only calls begun since the pause count. A call that hangs since before it must not take the place of the
            # one call that shows whether the flow has recovered.
            since = self._concurrency.begun_since(self._resumed)
            bounds.append(_Bound(self._ramp.allowed - since, self._ramp.allowed, recovering))
        return bounds

    @property
    def _resumed(self) -> datetime:
        """The end of the latest pause or opening of the breaker."""
        return max(self._pause.until, self._breaker.open_until)

    # --- when may it call? ---------------------------------------------------------------------------------------

    def _due(self, ahead: int, reached: LimitReached, now: datetime) -> datetime:
        if reached.code == "flow_rate_limited":
            return max(self._rate.free_at(ahead, now), now + timedelta(seconds=MIN_POSTPONEMENT_SECONDS))
        # Requests get different times: if all of them returned at once, all but one would be postponed again.
        spread = ahead * max(self._concurrency.seconds_per_call, self._rate.seconds_per_call)
        if reached.not_before is not None:
            return reached.not_before + timedelta(seconds=min(spread, _MAX_ESTIMATE_SECONDS))
        seconds = self._concurrency.next_place_seconds(now) + spread
        return now + timedelta(seconds=min(seconds, _MAX_ESTIMATE_SECONDS))

    # --- the end of a call ---------------------------------------------------------------------------------------

    def end(self, ticket: str, health: FlowHealth, until: datetime | None, now: datetime, *, sender: str = "") -> None:
        """Record that the call of the ticket ended with this health. `until` is the time that a 429 named."""
        call = self._concurrency.end(ticket)
        if health is FlowHealth.NEUTRAL:
            return
        self._concurrency.record_duration(max(0.0, call.age(now)))
        # Before the check of `began`: the time in a 429 counts, even if its call began before the latest pause.
        if health is FlowHealth.THROTTLED and until is not None and until > now:
            self._pause.begin_until(until)
            self._ramp.restart()
        elif call.began >= self._resumed:
            # A flow that answered other calls meanwhile is not down, whatever this call met.
            is_up = health is FlowHealth.UNHEALTHY and self._answered_at > call.began
            self._record(FlowHealth.RUN_FAILED if is_up else health, sender, now)
        # Otherwise the call began before the latest pause, and its end says nothing about the flow since then. Ten
        # calls that fail together must open the breaker once, not once each.

    def _record(self, health: FlowHealth, sender: str, now: datetime) -> None:
        match health:
            case FlowHealth.HEALTHY:
                self._answered_at = now
                self._ramp.record_success()
                self._pause.record_success()
                self._breaker.record_success()
            case FlowHealth.THROTTLED:
                self._ramp.restart()
                self._pause.begin(now)
            case FlowHealth.UNHEALTHY:
                if self._breaker.record_outage(now):
                    self._ramp.restart()
            case FlowHealth.RUN_FAILED:
                if self._breaker.record_failed_run(sender, now):
                    self._ramp.restart()
            case FlowHealth.NEUTRAL:
                pass
            case _:
                assert_never(health)

    # --- state ---------------------------------------------------------------------------------------------------

    @property
    def has_failed(self) -> bool:
        """True if the latest evidence says that the flow fails."""
        return self._breaker.failures_in_a_row > 0

    @property
    def in_flight(self) -> int:
        """The number of calls in flight."""
        return len(self._concurrency)

    def calls_in_window(self, now: datetime) -> int:
        """Return the number of calls in the rate limiter's window."""
        self._rate.slide(now)
        return len(self._rate)

    def is_quick(self, max_seconds: float, now: datetime) -> bool:
        """See `ConcurrencyLimiter.is_quick`."""
        return self._concurrency.is_quick(max_seconds, now)

    def is_slow(self, now: datetime) -> bool:
        """See `ConcurrencyLimiter.is_slow`."""
        return self._concurrency.is_slow(now)

    def worthwhile_wait_seconds(self, waiting: int, max_seconds: float, now: datetime) -> float:
        """See `ConcurrencyLimiter.worthwhile_wait_seconds`."""
        return self._concurrency.worthwhile_wait_seconds(waiting, max_seconds, now)

    def state(self, now: datetime) -> FlowState:
        """Return the state of the flow's limits."""
        self._rate.slide(now)
        closed = self.closed(now)
        return FlowState(
            in_flight=len(self._concurrency),
            waiting=self._queue.expected(now),
            calls_in_window=len(self._rate),
            average_seconds=self._concurrency.average_seconds,
            failures_in_a_row=self._breaker.failures_in_a_row,
            closed=None if closed is None else Postponement(closed.not_before or now, closed.code, closed.cause),
        )
