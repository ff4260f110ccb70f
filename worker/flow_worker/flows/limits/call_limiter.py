"""When a flow may be called, and which lanes its calls may hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from flow_worker.flows.limits.flow_limiter import BUSY, FlowState, Gate, Limits, NotNow, Refusal
from flow_worker.flows.limits.lane_reserve import Health, Lanes
from flow_worker.flows.verdict import FlowHealth

PATIENCE_SECONDS = 0.25
"""How long a lane waits for a call of a quick flow to end: the way through the continuation queue takes longer."""

_LANES_TAKEN = Refusal(BUSY, "other lanes of the worker are kept free for other flows")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    flow: str
    ticket: str
    queue: str
    admitted: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """False: it is no use waiting any longer."""


def status_poll_key(flow: str) -> str:
    """The name under which looks at the flow's runs are paced: apart from its calls, which they are not."""
    return f"{flow} (status)"


class Pacing:
    """Paces the calls of this process to each of its flows. For one event loop.

    Every flow has its own bounds, pause, breaker and line, which no other flow influences: calls in flight, calls in
    any window, a pause shared by all lanes when it says 429, and a circuit breaker when it only fails. Requests that
    may not call now are told when to come back, one after another, and find a place kept for them; one that never
    comes back (another replica took it) is forgotten.

    Flows share only the lanes, see `Lanes`. Beyond those a flow may hold, `admitted` lets a request wait in its lane
    for a fraction of a second, but only for a flow whose calls end as fast: so the backlog of a quick flow does not go
    through the continuation queue, and the reserve is free again in that fraction of a second if the flow hangs.

    The default limits are Power Automate's for the low performance profile: 4,500 invoke calls in 5 minutes; some 1,000
    concurrent inbound calls, of which one worker takes 100 (Microsoft Learn, "Limits of automated, scheduled, and
    instant flows").
    """

    def __init__(
        self, limits: Mapping[str, Limits], now: Callable[[], datetime], *, lanes: Mapping[str, int] | None = None
    ) -> None:
        """`now`: the time in UTC, aware. `lanes`: of each queue of this process; None: they are no concern here."""
        self._lanes = Lanes(lanes if lanes is not None and len(limits) > 1 else {})
        most = self._lanes.most_for_one
        self._gates = {
            name: Gate(limit, most) for flow, limit in limits.items() for name in (flow, status_poll_key(flow))
        }
        self._now = now
        self._waiters: list[_Waiter] = []

    def enter(self, flow: str, ticket: str, queue: str) -> NotNow | None:
        """None: call `flow` now, and `leave` when that is over. Otherwise come back, as the same `ticket`, when due.

        `ticket`: what stays the same of a request however often it comes. `queue`: whose lane is to be held meanwhile.
        Raises `KeyError` for an unknown flow.
        """
        now = self._now()
        if (refusal := self._admit(flow, ticket, queue, now)) is None:
            return None
        return self._gates[flow].put_off(ticket, refusal, now)

    async def admitted(
        self, flow: str, ticket: str, queue: str, *, patience_seconds: float = PATIENCE_SECONDS
    ) -> NotNow | None:
        """As `enter`, but waits, at most `patience_seconds`, for a place if one is likely to become free by then.

        Cancelled, it leaves nothing behind.
        """
        refusal = self._admit(flow, ticket, queue, self._now())
        if refusal is None:
            return None
        seconds = self._patience(flow, patience_seconds) if refusal.code == BUSY else 0.0
        if seconds > 0 and await self._wait(_Waiter(flow, ticket, queue), seconds):
            return None
        return self.enter(flow, ticket, queue)

    def leave(self, flow: str, ticket: str, queue: str, *, sign: FlowHealth, until: datetime | None) -> None:
        """A call is over, or never came about. To be called once for each that entered, in a `finally`.

        `sign`: what it says of the flow's health; NEUTRAL for one that was cancelled or not made. `until`: the time
        the flow gave with a 429.
        """
        self._lanes.give_back(queue, flow)
        self._gates[flow].leave(ticket, sign, until, self._now())
        self._wake()

    def state(self) -> Mapping[str, FlowState]:
        """How it stands with each flow."""
        now = self._now()
        return {flow: gate.state(now) for flow, gate in self._gates.items()}

    def _admit(self, flow: str, ticket: str, queue: str, now: datetime) -> Refusal | None:
        gate = self._gates[flow]
        refusal = gate.refusal(ticket, now)
        if refusal is None and not self._lanes.has_one(queue, flow, Health(gate.is_slow(now), gate.has_failed)):
            refusal = _LANES_TAKEN
        if refusal is None:
            gate.admit(ticket, now)
            self._lanes.take(queue, flow)
        return refusal

    # --- patience ------------------------------------------------------------------------------------------------

    def _patience(self, flow: str, most: float) -> float:
        waiting = sum(waiter.flow == flow for waiter in self._waiters)
        return self._gates[flow].patience(waiting, most, self._now())

    async def _wait(self, waiter: _Waiter, seconds: float) -> bool:
        self._waiters.append(waiter)
        try:
            await asyncio.wait([waiter.admitted], timeout=seconds)
        except asyncio.CancelledError:
            if waiter.admitted.done() and waiter.admitted.result():
                self.leave(waiter.flow, waiter.ticket, waiter.queue, sign=FlowHealth.NEUTRAL, until=None)
            raise
        finally:
            self._waiters.remove(waiter)
        return waiter.admitted.done() and waiter.admitted.result()

    def _wake(self) -> None:
        """Give the places there are to those who wait, first come first served, before anyone else asks."""
        now = self._now()
        for waiter in self._waiters:
            if waiter.admitted.done():
                continue
            refusal = self._admit(waiter.flow, waiter.ticket, waiter.queue, now)
            if refusal is None or refusal.code != BUSY:
                waiter.admitted.set_result(refusal is None)
