"""Limits the calls of this process to all of its flows, and the lanes that those calls hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from flow_worker.flows.limits.flow_limiter import FlowLimiter, FlowLimits, FlowState, LimitReached, Postponement
from flow_worker.flows.limits.lane_reserve import FlowCondition, LaneReserve
from flow_worker.flows.verdict import FlowHealth

MAX_WAIT_SECONDS = 0.25
"""The longest wait of a request in its lane; the way through the continuation queue takes longer than that."""

_LANES_TAKEN = LimitReached("flow_busy", "the worker keeps its other lanes free for other flows")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    flow: str
    ticket: str
    queue: str
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

    Flows share only the lanes, see `LaneReserve`. In `enter` a request may wait in its lane for a fraction of a second,
    but only if the flow's calls are that short. So the backlog of a quick flow does not travel through the
    continuation queue. If that flow begins to hang, its lanes are free again after the same fraction of a second.

    The default limits are those of Power Automate for the low performance profile: 4,500 invoke calls in 5 minutes.
    Of its about 1,000 concurrent inbound calls, one worker takes 100 (Microsoft Learn, "Limits of automated,
    scheduled, and instant flows").
    """

    def __init__(
        self, limits: Mapping[str, FlowLimits], now: Callable[[], datetime], *, lanes: Mapping[str, int] | None = None
    ) -> None:
        """`now` returns the time in UTC. `lanes` is the number of lanes of each queue; None: lanes are not limited."""
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

    def try_enter(self, flow: str, ticket: str, queue: str) -> Postponement | None:
        """Return None if the request may call `flow` now; call `leave` afterwards. Otherwise return its postponement.

        `ticket` identifies the request and must be the same each time it returns. `queue` names the queue whose lane
        the call holds. Raises `KeyError` for an unknown flow.
        """
        now = self._now()
        if (reached := self._begin(flow, ticket, queue, now)) is None:
            return None
        return self._flows[flow].postpone(ticket, reached, now)

    async def enter(
        self, flow: str, ticket: str, queue: str, *, max_wait_seconds: float = MAX_WAIT_SECONDS
    ) -> Postponement | None:
        """Do as `try_enter`, but wait for up to `max_wait_seconds` if a place is likely to become free by then.

        A cancelled wait holds neither a place nor a lane.
        """
        reached = self._begin(flow, ticket, queue, self._now())
        if reached is None:
            return None
        seconds = self._wait_seconds(flow, max_wait_seconds) if reached.code == "flow_busy" else 0.0
        if seconds > 0 and await self._wait(_Waiter(flow, ticket, queue), seconds):
            return None
        return self.try_enter(flow, ticket, queue)

    def leave(self, flow: str, ticket: str, queue: str, *, health: FlowHealth, until: datetime | None) -> None:
        """Record the end of a call, even if the request never made it. Call this once for each entry, in a `finally`.

        `health` is NEUTRAL for a call that was cancelled or not made. `until` is the time that the flow named in a 429.
        """
        self._lanes.release(queue, flow)
        self._flows[flow].end(ticket, health, until, self._now())
        # Last, because the waiters compete for the lane and the place that this call has just left.
        self._wake_waiters()

    def state(self) -> Mapping[str, FlowState]:
        """Return the state of each flow's limits."""
        now = self._now()
        return {key: flow.state(now) for key, flow in self._flows.items()}

    def _begin(self, key: str, ticket: str, queue: str, now: datetime) -> LimitReached | None:
        """Begin the call and take its lane if no limit is reached; otherwise return the limit.

        The check and the count share one turn of the event loop: with an `await` in between, two requests could take
        the same place.
        """
        flow = self._flows[key]
        reached = flow.limit_reached(ticket, now)
        condition = FlowCondition(is_slow=flow.is_slow(now), has_failed=flow.has_failed)
        if reached is None and not self._lanes.has_lane(queue, key, condition):
            reached = _LANES_TAKEN
        if reached is None:
            flow.begin(ticket, now)
            self._lanes.take(queue, key)
        return reached

    # --- waiting in a lane ---------------------------------------------------------------------------------------

    def _wait_seconds(self, flow: str, max_seconds: float) -> float:
        waiting = sum(waiter.flow == flow for waiter in self._waiters)
        return self._flows[flow].worthwhile_wait_seconds(waiting, max_seconds, self._now())

    async def _wait(self, waiter: _Waiter, seconds: float) -> bool:
        self._waiters.append(waiter)
        try:
            # Not `wait_for`, which cancels the future at the timeout and so could lose a place granted in that turn.
            await asyncio.wait([waiter.decision], timeout=seconds)
        except asyncio.CancelledError:
            # `_wake_waiters` may have granted the place in the very turn of the loop that cancelled the wait.
            if waiter.decision.done() and waiter.decision.result():
                self.leave(waiter.flow, waiter.ticket, waiter.queue, health=FlowHealth.NEUTRAL, until=None)
            raise
        finally:
            self._waiters.remove(waiter)
        return waiter.decision.done() and waiter.decision.result()

    def _wake_waiters(self) -> None:
        """Grant free places to the waiters, in order of arrival, before any other request can take them.

        A call that ends in one flow can free a lane for any flow, so the method tries all waiters.
        """
        now = self._now()
        for waiter in self._waiters:
            if waiter.decision.done():
                continue
            reached = self._begin(waiter.flow, waiter.ticket, waiter.queue, now)
            # A limit other than `flow_busy` outlasts a fraction of a second, so the waiter leaves its lane.
            if reached is None or reached.code != "flow_busy":
                waiter.decision.set_result(reached is None)
