"""When a flow may be called, and which lanes its calls may hold."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from worker.flows.pacing.gate import BUSY, FlowState, Gate, Limits, NotNow, Refusal
from worker.flows.verdict import Sign

PATIENCE_SECONDS = 0.25
"""How long a lane waits for a call of a quick flow to end: the way through the continuation queue takes longer."""
_RESERVE = 4
"""One in so many lanes is not for one flow alone."""

_LANES_TAKEN = Refusal(BUSY, "other lanes of the worker are kept free for other flows")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    flow: str
    ticket: str
    admitted: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """False: it is no use waiting any longer."""


class Pacing:
    """Paces the calls of this process to each of its flows. For one event loop.

    Every flow has its own bounds, pause, breaker and line, which no other flow influences: calls in flight, calls in
    any window, a pause shared by all lanes when it says 429, and a circuit breaker when it only fails. Requests that
    may not call now are told when to come back, one after another, and find a place kept for them; one that never
    comes back (another replica took it) is forgotten.

    Flows share only the lanes. Of `lanes`, a quarter is the reserve, and no flow's calls hold more than the rest. All
    calls together leave the reserve free, except that a flow with none in flight may always take one of it unless its
    last call failed, and one that is not slow may take more as long as one lane is left. Beyond that, `admitted` lets a
    request wait in its lane for a fraction of a second, but only for a flow whose calls end as fast: so the backlog of
    a quick flow does not go through the continuation queue, and the reserve is free again in that fraction of a second
    if the flow begins to hang.

    The default limits are Power Automate's for the low performance profile: 4,500 invoke calls in 5 minutes; some 1,000
    concurrent inbound calls, of which one worker takes 100 (Microsoft Learn, "Limits of automated, scheduled, and
    instant flows").
    """

    def __init__(self, limits: Mapping[str, Limits], now: Callable[[], datetime], *, lanes: int | None = None) -> None:
        """`now`: the time in UTC, aware. `lanes`: of the process, on all queues; None: they are no concern here."""
        shared = lanes is not None and lanes > 1 and len(limits) > 1
        self._lanes = lanes if shared and lanes is not None else sys.maxsize
        self._common = self._lanes - max(1, self._lanes // _RESERVE)
        self._gates = {flow: Gate(limit, self._common) for flow, limit in limits.items()}
        self._now = now
        self._waiters: list[_Waiter] = []

    def enter(self, flow: str, ticket: str) -> NotNow | None:
        """None: call `flow` now, and `leave` when that is over. Otherwise come back, as the same `ticket`, when due.

        `ticket`: what stays the same of a request however often it comes. Raises `KeyError` for an unknown flow.
        """
        now = self._now()
        if (refusal := self._admit(flow, ticket, now)) is None:
            return None
        return self._gates[flow].put_off(ticket, refusal, now)

    async def admitted(self, flow: str, ticket: str, *, patience_seconds: float = PATIENCE_SECONDS) -> NotNow | None:
        """As `enter`, but waits up to `patience_seconds` for a place if one is likely to become free by then.

        Cancelled, it leaves nothing behind.
        """
        refusal = self._admit(flow, ticket, self._now())
        if refusal is None:
            return None
        if refusal.code != BUSY or not self._is_worth_waiting(flow, patience_seconds):
            return self.enter(flow, ticket)
        return None if await self._wait(_Waiter(flow, ticket), patience_seconds) else self.enter(flow, ticket)

    def leave(self, flow: str, *, sign: Sign, until: datetime | None, ticket: str | None = None) -> None:
        """A call is over, or never came about. To be called once for each that entered, in a `finally`.

        `sign`: what it says of the flow's health; NEUTRAL for one that was cancelled or not made. `until`: the time
        the flow gave with a 429. `ticket`: whose call; without it the oldest is taken to have ended.
        """
        self._gates[flow].leave(ticket, sign, until, self._now())
        self._wake()

    def state(self) -> Mapping[str, FlowState]:
        """How it stands with each flow."""
        now = self._now()
        return {flow: gate.state(now) for flow, gate in self._gates.items()}

    def _admit(self, flow: str, ticket: str, now: datetime) -> Refusal | None:
        gate = self._gates[flow]
        refusal = gate.refusal(ticket, now)
        if refusal is None and not self._has_lane(gate, now):
            refusal = _LANES_TAKEN
        if refusal is None:
            gate.admit(ticket, now)
        return refusal

    def _has_lane(self, gate: Gate, now: datetime) -> bool:
        taken = sum(each.in_flight for each in self._gates.values())
        if taken < self._common:
            return True
        if not gate.in_flight:
            return not gate.has_failed
        return taken < self._lanes - 1 and not gate.is_slow(now)

    # --- patience ------------------------------------------------------------------------------------------------

    def _is_worth_waiting(self, flow: str, seconds: float) -> bool:
        waiting = sum(waiter.flow == flow for waiter in self._waiters)
        return self._gates[flow].is_worth_waiting(waiting, seconds, self._now())

    async def _wait(self, waiter: _Waiter, seconds: float) -> bool:
        self._waiters.append(waiter)
        try:
            await asyncio.wait([waiter.admitted], timeout=seconds)
        except asyncio.CancelledError:
            if waiter.admitted.done() and waiter.admitted.result():
                self.leave(waiter.flow, sign=Sign.NEUTRAL, until=None, ticket=waiter.ticket)
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
            refusal = self._admit(waiter.flow, waiter.ticket, now)
            if refusal is None or refusal.code != BUSY:
                waiter.admitted.set_result(refusal is None)
