"""Whether one flow may be called now, and if not, when: its bounds, its pauses, its breaker."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from flow_worker.flows.limits.backoff import Backoff
from flow_worker.flows.limits.rate_limiter import Window
from flow_worker.flows.limits.waiting_queue import Line
from flow_worker.flows.verdict import FlowHealth

BUSY = "flow_busy"
THROTTLED = "flow_throttled"
RATE_LIMITED = "flow_rate_limited"
CIRCUIT_OPEN = "flow_circuit_open"

SLOW_SECONDS = 5.0
"""A flow is slow if its calls take longer, or one in flight does."""
_PAUSE_SECONDS = 5.0
_MAX_PAUSE_SECONDS = 300.0
_PAUSE_JITTER = 0.2
_SOONEST_SECONDS = 0.5
"""Nobody is sent away for less: the way through the queue costs more than it saves."""
_LATEST_SECONDS = 60.0
"""An estimate that is further off is worth nothing."""
_UNKNOWN_SECONDS = 1.0
"""What a call is taken to last as long as none has ended."""
_KEPT = 1 / 4
"""The part of the places (one at least) that stays free for those who were first: they may be with another replica."""
_PATIENCE_CALLS = 4
"""So many calls' time is waited for a place."""
_LEAST_PATIENCE_SECONDS = 0.05
_SMOOTHING = 0.2
"""The weight of the latest call in the running average."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How fast a flow may be called by this process, and when it is left alone."""

    max_in_flight: int
    max_calls: int
    """In any `window_seconds`."""
    window_seconds: float
    breaker_failures: int
    """So many failures in a row, and the flow is left alone for `breaker_seconds`."""
    breaker_seconds: float
    """Doubles each time the flow is tried again and fails, up to `breaker_max_seconds`."""
    breaker_max_seconds: float


@dataclass(frozen=True, slots=True)
class NotNow:
    """The flow may not be called before `until`."""

    until: datetime
    code: str
    """`flow_throttled`, `flow_busy` (in flight), `flow_rate_limited` (calls in the window) or `flow_circuit_open`."""
    cause: str
    """One clause for a person."""


@dataclass(frozen=True, slots=True)
class FlowState:
    """How it stands with one flow, for whoever wants to know why its requests wait."""

    in_flight: int
    waiting: int
    """Requests that were sent away and are expected back."""
    calls_in_window: int
    average_seconds: float | None
    failures_in_a_row: int
    closed: NotNow | None
    """Why nobody may call it now, if so."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not now. `not_before` is known for certain; without it, it is anyone's guess."""

    code: str
    cause: str
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    ticket: str
    began: datetime


class Gate:
    """One flow.

    After a pause or with the breaker half-open, one call is let through, and one more with each answer that is well:
    nobody learns that a flow has recovered by calling it a hundred times at once.
    """

    def __init__(self, limits: Limits, most: int) -> None:
        """`most`: calls in flight, however many more `limits` allow."""
        self._limits = limits
        self._most = min(limits.max_in_flight, most)
        self._window = Window(limits.max_calls, limits.window_seconds)
        self._line = Line()
        self._calls: list[_Call] = []
        self._average: float | None = None
        self._pause = Backoff(_PAUSE_SECONDS, _MAX_PAUSE_SECONDS, jitter=_PAUSE_JITTER)
        self._breaker = Backoff(limits.breaker_seconds, max(limits.breaker_seconds, limits.breaker_max_seconds))
        self._failures = 0
        self._trusted = self._most
        """Calls that may be in flight since the last pause; grows with each that is well."""

    # --- who may call --------------------------------------------------------------------------------------------

    def refusal(self, ticket: str, now: datetime) -> Refusal | None:
        """Why `ticket` may not call now; None: it may."""
        self._window.slide(now)
        self._line.forget_absent(ticket, now)
        if (closed := self._closed(now)) is not None:
            return closed
        owed = self._line.owed_before(ticket, now)
        for free, size, code, cause in self._bounds():
            if free <= min(owed, ceil(size * _KEPT)):
                return Refusal(code, cause)
        return None

    def admit(self, ticket: str, now: datetime) -> None:
        """It calls now."""
        self._line.remove(ticket)
        self._window.add(now)
        self._calls.append(_Call(ticket, now))

    def put_off(self, ticket: str, refusal: Refusal, now: datetime) -> NotNow:
        """Send it away, to come back about when it is its turn."""
        due = self._due(self._line.ahead_of(ticket), refusal, now)
        self._line.put(ticket, due)
        return NotNow(due, refusal.code, refusal.cause)

    def _closed(self, now: datetime) -> Refusal | None:
        if now < self._breaker.until and self._breaker.until >= self._pause.until:
            return Refusal(CIRCUIT_OPEN, "the flow has only failed of late and is left alone", self._breaker.until)
        if now < self._pause.until:
            return Refusal(THROTTLED, "the flow has asked for fewer calls", self._pause.until)
        return None

    def _bounds(self) -> list[tuple[int, int, str, str]]:
        """Places that are free, of how many, and what it means if there are none."""
        bounds = [
            (self._window.free, self._limits.max_calls, RATE_LIMITED, "the flow was called as often as it may be"),
            (self._most - len(self._calls), self._most, BUSY, "as many calls of the flow as may be are under way"),
        ]
        if self._trusted < self._most:
            code = CIRCUIT_OPEN if self._breaker.times else THROTTLED
            since = sum(call.began >= self._resumed for call in self._calls)
            bounds.append((self._trusted - since, self._trusted, code, "the flow is being tried again with few calls"))
        return bounds

    @property
    def _resumed(self) -> datetime:
        return max(self._pause.until, self._breaker.until)

    # --- when ----------------------------------------------------------------------------------------------------

    def _due(self, ahead: int, refusal: Refusal, now: datetime) -> datetime:
        if refusal.code == RATE_LIMITED:
            return max(self._window.free_at(ahead, now), now + timedelta(seconds=_SOONEST_SECONDS))
        spread = ahead * self._seconds_between_calls()
        if refusal.not_before is not None:
            return refusal.not_before + timedelta(seconds=min(spread, _LATEST_SECONDS))
        return now + timedelta(seconds=min(self._next_place_seconds(now) + spread, _LATEST_SECONDS))

    def _seconds_between_calls(self) -> float:
        lasts = _UNKNOWN_SECONDS if self._average is None else self._average
        return max(lasts / self._most, self._limits.window_seconds / self._limits.max_calls)

    def _next_place_seconds(self, now: datetime) -> float:
        """Until a call is likely to end.

        If the oldest is late already, none of them may end for long: then as long as there was no place so far, so
        that a request which waits for a hanging flow comes back a few times, not dozens.
        """
        if not self._calls:
            return _SOONEST_SECONDS
        remaining = (self._average or 0.0) - _age(self._calls[0], now)
        return max(_SOONEST_SECONDS, remaining if remaining > 0 else _age(self._calls[-1], now))

    # --- what came of it -----------------------------------------------------------------------------------------

    def leave(self, ticket: str, sign: FlowHealth, until: datetime | None, now: datetime) -> None:
        """The call of that ticket has ended.

        What was begun before a pause says nothing of the time after it, except when the flow names a time itself.
        """
        call = next(call for call in self._calls if call.ticket == ticket)
        self._calls.remove(call)
        if sign is FlowHealth.NEUTRAL:
            return
        lasted = max(0.0, _age(call, now))
        self._average = lasted if self._average is None else self._average + _SMOOTHING * (lasted - self._average)
        if sign is FlowHealth.THROTTLED and until is not None and until > now:
            self._pause.until_at_least(until)
            self._trusted = 1
        elif call.began >= self._resumed:
            self._learn(sign, now)

    def _learn(self, sign: FlowHealth, now: datetime) -> None:
        if sign is FlowHealth.HEALTHY:
            self._failures = 0
            self._trusted = min(self._trusted + 1, self._most)
            self._pause.reset()
            self._breaker.reset()
        elif sign is FlowHealth.THROTTLED:
            self._trusted = 1
            self._pause.begin(now)
        else:
            self._failures += 1
            if self._failures >= self._limits.breaker_failures:
                self._trusted = 1
                self._breaker.begin(now)

    # --- how it is -----------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Calls that have not ended."""
        return len(self._calls)

    @property
    def has_failed(self) -> bool:
        """The last call that told anything told nothing good."""
        return self._failures > 0

    def is_slow(self, now: datetime) -> bool:
        """Its calls take long, or one of them does by now."""
        oldest = _age(self._calls[0], now) if self._calls else 0.0
        return max(self._average or 0.0, oldest) > SLOW_SECONDS

    def patience(self, waiting: int, most: float, now: datetime) -> float:
        """How many seconds, at most `most`, one more who waits should wait for a place that is likely to become free.

        None at all while it is not known how long calls last, and otherwise no longer than a few of them: who waits
        holds a lane, and only calls younger than that count, since a flow that hangs has none after as long.
        """
        if self._average is None or self._average > most:
            return 0.0
        seconds = min(most, max(_LEAST_PATIENCE_SECONDS, _PATIENCE_CALLS * self._average))
        young = sum(_age(call, now) <= seconds for call in self._calls)
        return seconds if young > 0 and (waiting + 1) * self._average <= young * seconds else 0.0

    def state(self, now: datetime) -> FlowState:
        """How it stands with the flow."""
        self._window.slide(now)
        closed = self._closed(now)
        return FlowState(
            in_flight=len(self._calls),
            waiting=len(self._line),
            calls_in_window=len(self._window),
            average_seconds=self._average,
            failures_in_a_row=self._failures,
            closed=None if closed is None else NotNow(closed.not_before or now, closed.code, closed.cause),
        )


def _age(call: _Call, now: datetime) -> float:
    return (now - call.began).total_seconds()
