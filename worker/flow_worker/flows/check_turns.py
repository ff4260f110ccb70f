"""Decides which checks of inputs may run now, so that no sender's checks occupy the lanes or all processes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Hashable, Mapping
from dataclasses import dataclass, field

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.check_usage import CheckUsage

_LANES_PART = 4
_MIN_LANES = 2
"""One of them remains for the other senders, because all slow senders together check one input at a time."""
_PATIENCE_SECONDS = 0.1
"""A check normally takes a few milliseconds. Behind one that has taken longer, a request does not wait in its lane."""


@dataclass(slots=True)
class _Places:
    """Places for checks. A request waits for one only while the oldest check under way is young."""

    semaphore: asyncio.Semaphore
    began: list[float] = field(default_factory=list)
    users: int = 0

    @contextlib.asynccontextmanager
    async def hold(self, *, waits: bool) -> AsyncIterator[None]:
        """Hold a place during the block. Raises `TimeoutError`."""
        self.users += 1
        try:
            await self._acquire(waits=waits)
            began = time.monotonic()
            self.began.append(began)
            try:
                yield
            finally:
                self.began.remove(began)
                self.semaphore.release()
        finally:
            self.users -= 1

    async def _acquire(self, *, waits: bool) -> None:
        oldest = self.began[0] if self.began else time.monotonic()
        seconds = oldest + _PATIENCE_SECONDS - time.monotonic()
        if self.semaphore.locked() and (not waits or seconds <= 0):
            raise TimeoutError
        async with asyncio.timeout(max(seconds, _PATIENCE_SECONDS / 10)):
            await self.semaphore.acquire()


class CheckTurns:
    """The turns of senders, the lanes of queues and the processes that checks may occupy."""

    def __init__(self, processes: int, wait_seconds: float, lanes: Mapping[str, int]) -> None:
        """`lanes` is the number of lanes of each queue. A queue without one has no limit."""
        self.usage = CheckUsage()
        self._wait_seconds = wait_seconds
        self._processes = asyncio.Semaphore(processes)
        self._slow_place = asyncio.Lock()
        self._senders: dict[Hashable, _Places] = {}
        self._lanes = {
            queue: _Places(asyncio.Semaphore(min(count, max(_MIN_LANES, count // _LANES_PART))))
            for queue, count in lanes.items()
        }

    @contextlib.asynccontextmanager
    async def hold(self, sender: Hashable, queue: str) -> AsyncIterator[None]:
        """Hold a process for a sender's check in a lane of the queue. Raises `TemporarilyUnavailable`.

        The request then leaves its lane, and comes back as a continuation.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                await self._enter(stack, sender, queue)
            except TimeoutError:
                raise TemporarilyUnavailable(
                    "input_check_busy",
                    "other inputs of this or of many senders are being checked; raise input_checks.processes",
                ) from None
            yield

    async def _enter(self, stack: contextlib.AsyncExitStack, sender: Hashable, queue: str) -> None:
        # A slow sender never waits: its requests would occupy lanes meanwhile.
        is_slow = self.usage.is_slow(sender)
        await stack.enter_async_context(self._own_turn(sender, waits=not is_slow))
        if is_slow:
            if self._slow_place.locked():
                raise TimeoutError
            await stack.enter_async_context(self._slow_place)
        if (lanes := self._lanes.get(queue)) is not None:
            await stack.enter_async_context(lanes.hold(waits=not is_slow))
        async with asyncio.timeout(0 if is_slow else self._wait_seconds):
            await stack.enter_async_context(self._processes)

    @contextlib.asynccontextmanager
    async def _own_turn(self, sender: Hashable, *, waits: bool) -> AsyncIterator[None]:
        """Hold the sender's own turn: it has one at a time, so that it cannot occupy all processes."""
        turn = self._senders.setdefault(sender, _Places(asyncio.Semaphore(1)))
        try:
            async with turn.hold(waits=waits):
                yield
        finally:
            if turn.users == 0 and self._senders.get(sender) is turn:
                del self._senders[sender]
