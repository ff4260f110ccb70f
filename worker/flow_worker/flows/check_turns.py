"""Decides which checks of inputs may run now, so that no sender's checks occupy the lanes or all processes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.check_usage import CheckUsage

_LANES_PART = 4
_MIN_LANES = 2
"""One of them remains for the other senders, because all slow senders together check one input at a time."""
_PATIENCE_SECONDS = 0.1
"""A check normally takes a few milliseconds. Behind one that has taken longer, a request does not wait in its lane."""
_LONG_SECONDS = 0.5
"""A check that takes longer goes on only while a process remains for others. Many senders may have one such input."""

_Answer = TypeVar("_Answer")


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


class Turn:
    """The right of one check to occupy a process."""

    def __init__(self, long_places: asyncio.Semaphore, *, holds_long_place: bool) -> None:
        self._long_places = long_places
        self._holds_long_place = holds_long_place

    async def run(self, check: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Return the answer of the check. Raises `TooLong` if it takes long, and no place for long checks is free."""
        if self._holds_long_place:
            return await check
        checking = asyncio.ensure_future(check)
        try:
            # Not `wait_for`: before Python 3.12 it drops a cancellation that arrives together with the answer.
            async with asyncio.timeout(_LONG_SECONDS):
                return await asyncio.shield(checking)
        except TimeoutError:
            if checking.done():  # with a timeout of its own
                return checking.result()
            if self._long_places.locked():
                raise TooLong from None
            async with self._long_places:
                return await checking
        finally:
            if not checking.done():
                checking.cancel()
                await asyncio.wait([checking])


class TooLong(Exception):
    """The check took long, and others need its process. The check has ended."""


class CheckTurns:
    """The turns of senders, the lanes of queues and the processes that checks may occupy."""

    def __init__(self, processes: int, wait_seconds: float, lanes: Mapping[str, int]) -> None:
        """`lanes` is the number of lanes of each queue. A queue without one has no limit."""
        self.usage = CheckUsage()
        self._wait_seconds = wait_seconds
        self._processes = asyncio.Semaphore(processes)
        self._slow_place = asyncio.Lock()
        self._long_places = asyncio.Semaphore(max(1, processes - 1))
        self._senders: dict[Hashable, _Places] = {}
        self._lanes = {
            queue: _Places(asyncio.Semaphore(min(count, max(_MIN_LANES, count // _LANES_PART))))
            for queue, count in lanes.items()
        }

    @contextlib.asynccontextmanager
    async def hold(self, sender: Hashable, queue: str) -> AsyncIterator[Turn]:
        """Hold a process for a sender's check in a lane of the queue. Raises `TemporarilyUnavailable`.

        The request then leaves its lane, and comes back as a continuation.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                is_slow = await self._enter(stack, sender, queue)
            except TimeoutError:
                raise _busy() from None
            try:
                yield Turn(self._long_places, holds_long_place=is_slow)
            except TooLong:
                # The next one would take as long. Slow senders share one place, with the whole deadline.
                self.usage.exceed(sender)
                raise _busy() from None

    async def _enter(self, stack: contextlib.AsyncExitStack, sender: Hashable, queue: str) -> bool:
        """Enter the places of a check; return whether its sender is slow. Raises `TimeoutError`."""
        # A slow sender never waits: its requests would occupy lanes meanwhile.
        is_slow = self.usage.is_slow(sender)
        await stack.enter_async_context(self._own_turn(sender, waits=not is_slow))
        if is_slow:
            for place in (self._slow_place, self._long_places):
                if place.locked():
                    raise TimeoutError
                await stack.enter_async_context(place)
        if (lanes := self._lanes.get(queue)) is not None:
            await stack.enter_async_context(lanes.hold(waits=not is_slow))
        async with asyncio.timeout(0 if is_slow else self._wait_seconds):
            await stack.enter_async_context(self._processes)
        return is_slow

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


def _busy() -> TemporarilyUnavailable:
    return TemporarilyUnavailable(
        "input_check_busy", "other inputs of this or of many senders are being checked; raise input_checks.processes"
    )
