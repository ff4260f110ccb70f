"""Limits the calls of each sender, and its share of each flow's calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from flow_worker.flows.limits.flow_limiter import FlowLimiter, FlowLimits, LimitReached
from flow_worker.flows.verdict import FlowHealth

MAX_LIMITERS = 4096
"""The limiters of all senders together; each takes about 4 KB."""
_FORGOTTEN_PART = 4
_RESERVED_PART = 4
"""A sender leaves one in four places and calls of a flow to the others, if the flow has at least four."""
_NEVER = 1_000_000_000
_BUSY = LimitReached("sender_busy", "the sender has as many calls in flight or waiting as it may")
_OWN_HEALTH = {FlowHealth.THROTTLED: FlowHealth.HEALTHY, FlowHealth.RUN_FAILED: FlowHealth.UNHEALTHY}
_RATE_LIMITED = LimitReached("sender_rate_limited", "the sender called as often as its rate limit allows")


@dataclass(frozen=True, slots=True)
class SenderLimits:
    """The limits on the calls of one sender by this process, over all flows."""

    max_in_flight: int
    max_calls: int
    """In any `window_seconds`."""
    window_seconds: float


NO_SENDER_LIMITS = SenderLimits(max_in_flight=_NEVER, max_calls=_NEVER, window_seconds=1.0)

Held = tuple[FlowLimiter, LimitReached]
"""The limit that holds a call back, and the limiter in whose queue it waits."""


class _Sender:
    """The calls of one sender: over all flows, and for each flow."""

    def __init__(self, limits: FlowLimits) -> None:
        self.all = FlowLimiter(limits, limits.max_in_flight)
        self.by_flow: dict[str, FlowLimiter] = {}

    @property
    def is_idle(self) -> bool:
        return all(limiter.in_flight == 0 for limiter in (self.all, *self.by_flow.values()))

    def __len__(self) -> int:
        return 1 + len(self.by_flow)


class SenderLimiter:
    """Limits the calls of each sender. A sender is any text that identifies a principal; the empty one has no limits.

    The limiters are those of the flows, one for all calls of a sender and one for its calls of each flow. A sender's
    calls in flight and its turns in a flow's waiting queue together do not exceed its share of the flow. Its other
    requests wait in its own queue, where they delay nobody else.

    The number of senders in memory is bounded. The limiter forgets those with the fewest calls of late first. So an
    attacker with many identities makes it forget these identities, not the sender whose limit is in force.
    """

    def __init__(
        self, limits: SenderLimits, flows: Mapping[str, FlowLimits], *, uncounted: Collection[str] = ()
    ) -> None:
        """`flows`: the limits of each flow, by its key. `uncounted`: the keys whose calls count for their flow only."""
        self._limits = _without_breaker(limits.max_in_flight, limits.max_calls, limits.window_seconds)
        self._shares = {key: _share_of(flow) for key, flow in flows.items()}
        self._uncounted = frozenset(uncounted)
        self._senders: dict[str, _Sender] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def held(self, sender: str, key: str, ticket: str, now: datetime, *, turns: int) -> Held | None:
        """Return the limit that keeps the sender from calling now; None if it may.

        `turns`: the sender's other requests in the flow's waiting queue.
        """
        if not sender:
            return None
        for limiter in self._limiters(sender, key, now):
            taken = 0 if limiter is self._senders[sender].all else turns
            if (reached := limiter.limit_reached(ticket, now, taken=taken)) is not None:
                return limiter, _RATE_LIMITED if reached.code == "flow_rate_limited" else _BUSY
        return None

    def begin(self, sender: str, key: str, ticket: str, now: datetime) -> None:
        """Record that the sender's request calls now."""
        for limiter in self._limiters(sender, key, now):
            limiter.begin(ticket, now)

    def end(self, sender: str, key: str, ticket: str, now: datetime, *, health: FlowHealth) -> None:
        """Record that the call ended. Unless `health` is NEUTRAL, its duration says how long the sender's calls are."""
        # A sender has no pause and no breaker. Its limiter of the flow only remembers whether the last call failed.
        own = _OWN_HEALTH.get(health, health)
        for limiter in self._limiters(sender, key, now):
            limiter.end(ticket, own, None, now)

    def has_failed(self, sender: str, key: str) -> bool:
        """Return whether the sender's last call of the flow failed, perhaps because of its input."""
        known = self._senders.get(sender)
        limiter = None if known is None else known.by_flow.get(key)
        return limiter is not None and limiter.has_failed

    def waiting(self, now: datetime) -> Counter[str]:
        """Return the number of requests that wait in the senders' own queues, by the key of their flow."""
        counts: Counter[str] = Counter()
        for known in self._senders.values():
            counts.update(known.all.expected_by_sender(now))
            for key, limiter in known.by_flow.items():
                counts[key] += limiter.expected(now)
        return counts

    def forget(self, sender: str, key: str, ticket: str, now: datetime) -> None:
        """Take a request that now waits for its flow out of the sender's own queues."""
        for limiter in self._limiters(sender, key, now):
            limiter.forget(ticket)

    def _limiters(self, sender: str, key: str, now: datetime) -> tuple[FlowLimiter, ...]:
        if not sender:
            return ()
        known = self._senders.get(sender)
        of_flow = None if known is None else known.by_flow.get(key)
        if known is None or of_flow is None:
            known, of_flow = self._added(sender, key, now)
        return (of_flow,) if key in self._uncounted else (known.all, of_flow)

    def _added(self, sender: str, key: str, now: datetime) -> tuple[_Sender, FlowLimiter]:
        if self._count >= MAX_LIMITERS:
            self._forget_some(now)
        known = self._senders.get(sender)
        if known is None:
            known = self._senders[sender] = _Sender(self._limits)
            self._count += 1
        share = self._shares[key]
        of_flow = known.by_flow[key] = FlowLimiter(share, share.max_in_flight)
        self._count += 1
        return known, of_flow

    def _forget_some(self, now: datetime) -> None:
        """Forget a part of the idle senders: those with the fewest calls in the window."""
        idle = [(known.all.calls_in_window(now), sender) for sender, known in self._senders.items() if known.is_idle]
        for _, sender in sorted(idle):
            self._count -= len(self._senders.pop(sender))
            if self._count <= MAX_LIMITERS - MAX_LIMITERS // _FORGOTTEN_PART:
                break


def _share_of(flow: FlowLimits) -> FlowLimits:
    """Return the share of a flow's limits that one sender may use."""
    return _without_breaker(_part(flow.max_in_flight), _part(flow.max_calls), flow.window_seconds)


def _part(size: int) -> int:
    return size - size // _RESERVED_PART


def _without_breaker(max_in_flight: int, max_calls: int, window_seconds: float) -> FlowLimits:
    return FlowLimits(
        max_in_flight=max_in_flight,
        max_calls=max_calls,
        window_seconds=window_seconds,
        breaker_failures=_NEVER,
        breaker_seconds=1.0,
        breaker_max_seconds=1.0,
    )
