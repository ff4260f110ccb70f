"""Limits the calls of this process to all of its flows, and the lanes that those calls hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from flow_worker.flows.limits.flow_limiter import FlowLimiter, FlowLimits, FlowState, LimitReached, Postponement
from flow_worker.flows.limits.lane_reserve import FlowCondition, LaneReserve
from flow_worker.flows.limits.sender_lanes import SenderLanes
from flow_worker.flows.limits.sender_limiter import NO_SENDER_LIMITS, Held, SenderLimiter, SenderLimits
from flow_worker.flows.verdict import FlowHealth

MAX_WAIT_SECONDS = 0.25
"""The longest wait of a request in its lane; the way through the continuation queue takes longer than that."""

_LANES_TAKEN = LimitReached("flow_busy", "the worker keeps its other lanes free for other flows")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    flow: str
    ticket: str
    queue: str
    sender: str = ""
    decision: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """True: the call may begin, and is counted already. False: waiting any longer is useless."""


def status_poll_key(flow: str) -> str:
    """Return the key for the limits of the flow's status polls, which are separate from those of its calls."""
    return f"{flow} (status)"


class CallLimiter:
    """Limits the calls of this process to each of its flows. For one event loop.

    Each flow has limits, a pause, a circuit breaker and a waiting queue that no other flow influences. The limiter
    postpones a request that may not call now. It gives the request a place in the waiting queue and a time to return
    at, different from the times of the others.

    Each sender has limits too, see `SenderLimiter`. Flows and senders share only the lanes, see `LaneReserve` and
    `SenderLanes`. In `enter` a request may wait in its lane for a fraction of a second, but only if the flow's calls
    are that short. So the backlog of a quick flow does not travel through the continuation queue. If that flow begins
    to hang, its lanes are free again after the same fraction of a second.

    The default limits are those of Power Automate for the low performance profile: 4,500 invoke calls in 5 minutes.
    Of its about 1,000 concurrent inbound calls, one worker takes 100 (Microsoft Learn, "Limits of automated,
    scheduled, and instant flows").
    """

    def __init__(
        self,
        limits: Mapping[str, FlowLimits],
        now: Callable[[], datetime],
        *,
        lanes: Mapping[str, int] | None = None,
        senders: SenderLimits = NO_SENDER_LIMITS,
    ) -> None:
        """`now` returns the time in UTC. `lanes` is the number of lanes of each queue; None: lanes are not limited.

        `senders` limits the calls of each sender over all flows.
        """
        polls = {status_poll_key(flow): limit for flow, limit in limits.items()}
        self._senders = SenderLimiter(senders, {**limits, **polls}, uncounted=polls.keys())
        self._sender_lanes = SenderLanes(lanes or {}, several_flows=len(limits) > 1)
        # A single flow needs no reserve: no other flow could use it.
        self._lanes = LaneReserve(lanes if lanes is not None and len(limits) > 1 else {})
        max_in_flight = self._lanes.max_per_flow
        self._flows = {
            key: FlowLimiter(limit, max_in_flight)
            for flow, limit in limits.items()
            for key in (flow, status_poll_key(flow))
        }
        self._now = now
        self._waiters: list[_Waiter] = []

    def try_enter(self, flow: str, ticket: str, queue: str, *, sender: str = "") -> Postponement | None:
        """Return None if the request may call `flow` now; call `leave` afterwards. Otherwise return its postponement.

        `ticket` identifies the request and must be the same each time it returns. `queue` names the queue whose lane
        the call holds, `sender` the principal whose limits apply. Raises `KeyError` for an unknown flow.
        """
        now = self._now()
        if (held := self._begin(flow, ticket, queue, now, sender)) is None:
            return None
        limiter, reached = held
        # A request waits in one queue only: a place in the other one would keep the requests behind it from calling.
        if limiter is self._flows[flow]:
            self._senders.forget(sender, flow, ticket, now)
            return limiter.postpone(ticket, reached, now, sender=sender)
        self._flows[flow].forget(ticket)
        # A sender's queue has requests of several flows, but of no other sender.
        return limiter.postpone(ticket, reached, now, sender=flow)

    async def enter(
        self, flow: str, ticket: str, queue: str, *, sender: str = "", max_wait_seconds: float = MAX_WAIT_SECONDS
    ) -> Postponement | None:
        """Do as `try_enter`, but wait for up to `max_wait_seconds` if a place is likely to become free by then.

        A cancelled wait holds neither a place nor a lane.
        """
        held = self._begin(flow, ticket, queue, self._now(), sender)
        if held is None:
            return None
        waiter = _Waiter(flow, ticket, queue, sender)
        seconds = self._wait_seconds(waiter, max_wait_seconds) if held[1].code == "flow_busy" else 0.0
        if seconds > 0 and await self._wait(waiter, seconds):
            return None
        return self.try_enter(flow, ticket, queue, sender=sender)

    def leave(
        self,
        flow: str,
        ticket: str,
        queue: str,
        *,
        health: FlowHealth,
        until: datetime | None,
        sender: str = "",
        person: str = "",
    ) -> None:
        """Record the end of a call, even if the request never made it. Call this once for each entry, in a `finally`.

        `health` is NEUTRAL for a call that was cancelled or not made. `until` is the time that the flow named in a 429.
        `sender` is that of the entry. `person` is the same for one person's senders; if empty, it is the sender.
        """
        now = self._now()
        self._lanes.release(queue, flow)
        self._sender_lanes.release(queue, sender, flow)
        self._senders.end(sender, flow, ticket, now, health=health)
        self._flows[flow].end(ticket, health, until, now, sender=person or sender)
        # Last, because the waiters compete for the lane and the place that this call has just left.
        self._wake_waiters()

    def state(self) -> Mapping[str, FlowState]:
        """Return the state of each flow's limits."""
        now = self._now()
        beyond = self._senders.waiting(now)
        return {key: replace(flow.state(now), beyond_shares=beyond[key]) for key, flow in self._flows.items()}

    def _begin(self, key: str, ticket: str, queue: str, now: datetime, sender: str) -> Held | None:
        """Begin the call and take its lane if no limit is reached; otherwise return the limit and its limiter.

        The check and the count share one turn of the event loop: with an `await` in between, two requests could take
        the same place.
        """
        flow = self._flows[key]
        reached = flow.limit_reached(ticket, now)
        own = self._senders.held(sender, key, ticket, now, turns=flow.turns_of(sender, ticket))
        if own is not None:
            # The flow's own limit, if there is one, says more about the cause and the end of the wait.
            return own if reached is None else (own[0], reached)
        if reached is None and not self._has_lane(key, queue, now, sender):
            reached = _LANES_TAKEN
        if reached is not None:
            return flow, reached
        flow.begin(ticket, now)
        self._senders.begin(sender, key, ticket, now)
        self._lanes.take(queue, key)
        self._sender_lanes.take(queue, sender, key)
        return None

    def _has_lane(self, key: str, queue: str, now: datetime, sender: str) -> bool:
        flow = self._flows[key]
        # One sender's failures may be due to its inputs: they cost only this sender the flow's lane of the reserve.
        has_failed = flow.has_failed or self._senders.has_failed(sender, key)
        condition = FlowCondition(is_slow=flow.is_slow(now), has_failed=has_failed)
        is_quick = flow.is_quick(MAX_WAIT_SECONDS, now)
        return self._lanes.has_lane(queue, key, condition) and self._sender_lanes.has_lane(
            queue, sender, key, is_quick=is_quick
        )

    # --- waiting in a lane ---------------------------------------------------------------------------------------

    def _wait_seconds(self, waiter: _Waiter, max_seconds: float) -> float:
        others = [other for other in self._waiters if other.queue == waiter.queue and other.sender == waiter.sender]
        if waiter.sender and len(others) >= self._sender_lanes.max_waiting(waiter.queue):
            return 0.0
        flow = waiter.flow
        waiting = sum(other.flow == flow for other in self._waiters)
        return self._flows[flow].worthwhile_wait_seconds(waiting, max_seconds, self._now())

    async def _wait(self, waiter: _Waiter, seconds: float) -> bool:
        self._waiters.append(waiter)
        try:
            # Not `wait_for`, which cancels the future at the timeout and so could lose a place granted in that turn.
            await asyncio.wait([waiter.decision], timeout=seconds)
        except asyncio.CancelledError:
            # `_wake_waiters` may have granted the place in the very turn of the loop that cancelled the wait.
            if waiter.decision.done() and waiter.decision.result():
                self._leave_uncalled(waiter)
            raise
        finally:
            self._waiters.remove(waiter)
        return waiter.decision.done() and waiter.decision.result()

    def _leave_uncalled(self, waiter: _Waiter) -> None:
        flow, ticket, queue = waiter.flow, waiter.ticket, waiter.queue
        self.leave(flow, ticket, queue, health=FlowHealth.NEUTRAL, until=None, sender=waiter.sender)

    def _wake_waiters(self) -> None:
        """Grant free places to the waiters, in order of arrival, before any other request can take them.

        A call that ends in one flow can free a lane for any flow, so the method tries all waiters.
        """
        now = self._now()
        for waiter in self._waiters:
            if waiter.decision.done():
                continue
            held = self._begin(waiter.flow, waiter.ticket, waiter.queue, now, waiter.sender)
            # A limit other than `flow_busy` outlasts a fraction of a second, so the waiter leaves its lane.
            if held is None or held[1].code != "flow_busy":
                waiter.decision.set_result(held is None)
