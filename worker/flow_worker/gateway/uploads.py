"""The bodies that have not arrived yet: how many each caller sends at a time, and how long they may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from flow_worker.gateway.connection import TooManyPieces
from flow_worker.gateway.limits import CallerWaiters
from flow_worker.gateway.problems import Problem, of_outage
from flow_worker.gateway.store.port import PrincipalId

_DRAIN_SECONDS: Final = 2.0
"""How long a gateway that stops still waits for bodies: slow ones would take its whole `shutdown_grace_seconds`."""


class Uploads:
    """Bounds slow bodies."""

    def __init__(self, seconds: float, max_per_caller: int) -> None:
        """`seconds`: the deadline of each body."""
        self._seconds = seconds
        self._of_caller = CallerWaiters(max_per_caller)
        self._deadlines: set[asyncio.Timeout] = set()
        self._is_draining = False

    def drain(self) -> None:
        """Shorten all deadlines: the gateway stops."""
        self._is_draining = True
        soon = asyncio.get_running_loop().time() + _DRAIN_SECONDS
        for deadline in self._deadlines:
            deadline.reschedule(min(soon, deadline.when() or soon))

    @asynccontextmanager
    async def deadline(self, caller: PrincipalId) -> AsyncIterator[None]:
        """Bound the time of the block, which reads a body. Raises `Problem`: 408, 429, or 503 while the gateway stops.

        Raises `TooManyPieces` unchanged.
        """
        with self._of_caller.held(caller) as may_upload:
            if not may_upload:
                raise Problem("rate_limited", "You send too many bodies at a time, too slowly.", retry_after=1)
            try:
                async with asyncio.timeout(_DRAIN_SECONDS if self._is_draining else self._seconds) as deadline:
                    self._deadlines.add(deadline)
                    try:
                        yield
                    finally:
                        self._deadlines.discard(deadline)
            except TooManyPieces:
                raise
            except TimeoutError:
                if self._is_draining:
                    raise of_outage() from None
                seconds = f"{self._seconds:g} s"
                raise Problem("request_timeout", f"The body did not arrive within {seconds}; send it again.") from None
