"""Finds the requests and results of a caller, and waits for a result."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.limits import ActiveRequests, CallerWaiters
from flow_worker.gateway.problems import Problem, of_outage
from flow_worker.gateway.settling import may_be_settled
from flow_worker.gateway.store.port import GatewayStore, PrincipalId, StoredRequest
from flow_worker.gateway.waiters import TooManyWaiters, Waiters

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Results:
    """Reads the store for the callers of this replica."""

    def __init__(self, store: GatewayStore, waiters: Waiters, active: ActiveRequests, of_caller: CallerWaiters) -> None:
        self._store = store
        self.active = active
        self.waiters = waiters
        self.of_caller = of_caller
        self.is_draining = False
        """The gateway stops: nobody waits any longer."""

    def drain(self) -> None:
        """End all waits."""
        self.is_draining = True
        self.waiters.wake_all()

    async def find(self, caller: PrincipalId, request_id: str) -> StoredRequest:
        """Return the caller's request. Raises `Problem`: 404 for everybody else's, 410 if its result is gone."""
        found = await self._get(caller, request_id) if _ID.fullmatch(request_id) else None
        if found is None or not found.record.may_read(caller):
            raise Problem("not_found", "The caller has no request of this ID.")
        if found.is_gone:
            raise Problem("gone", "The result was kept for gateway.results_seconds, and is gone now.")
        return found

    async def wait(
        self, caller: PrincipalId, request_id: str, seconds: float, *, settled: bool = False
    ) -> StoredRequest:
        """Return the caller's request once it has a result, or after `seconds`. Raises what `find` raises.

        `settled`: an `unknown` result does not end the wait.
        """
        if seconds <= 0 or self.is_draining:
            return await self.find(caller, request_id)
        with self.of_caller.held(caller) as may_wait:
            if not may_wait:
                return await self.find(caller, request_id)
            try:
                return await self._wait(caller, request_id, seconds, settled=settled)
            except TooManyWaiters:
                return await self.find(caller, request_id)

    async def _wait(self, caller: PrincipalId, request_id: str, seconds: float, *, settled: bool) -> StoredRequest:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with self.waiters.watch(request_id) as watch:
            while True:
                found = await self.find(caller, request_id)
                left = end - loop.time()
                if left <= 0 or self.is_draining:
                    return found
                if found.result is not None and not (settled and may_be_settled(found.result)):
                    return found
                with self.active.suspended():
                    if not await watch.changed(left):
                        return found

    async def _get(self, caller: PrincipalId, request_id: str) -> StoredRequest | None:
        try:
            return await self._store.get(request_id, reader=caller)
        except TemporarilyUnavailable as error:
            raise of_outage(error) from None
