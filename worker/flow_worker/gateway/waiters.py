"""Holds the callers that wait for a change of their request, and wakes them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self


class TooManyWaiters(Exception):
    """The gateway holds as many waiting callers as it may."""


class Watch:
    """Watches one request while its context is open. Changes from the entry on are noticed, also during a read.

    Use it in this order, so that no change is missed: enter, read the store, wait, read the store again.
    """

    __slots__ = ("_future", "_is_changed", "_request_id", "_waiters")

    def __init__(self, waiters: Waiters, request_id: str) -> None:
        self._waiters = waiters
        self._request_id = request_id
        self._is_changed = False
        self._future: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises `TooManyWaiters`."""
        self._waiters.add(self._request_id, self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiters.remove(self._request_id, self)

    async def changed(self, seconds: float) -> bool:
        """Return True once the request may have changed since the last call; False after `seconds`.

        True may be a false alarm: when the feed begins to read, and after an outage of the store, every watch returns.
        """
        if not self._is_changed and seconds > 0:
            await self._wait(seconds)
        is_changed, self._is_changed = self._is_changed, False
        return is_changed

    async def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        future = self._future = loop.create_future()
        timer = loop.call_later(seconds, self._expire)
        try:
            await future
        finally:
            timer.cancel()
            self._future = None

    def wake(self) -> None:
        """Note a change, and end the wait."""
        self._is_changed = True
        self._expire()

    def _expire(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class Waiters:
    """All watches of one replica, by request."""

    def __init__(self, *, max_count: int) -> None:
        self._max_count = max_count
        # A single watch, or a list of several: most requests have one, and a list for each costs 64 bytes.
        self._watches: dict[str, Watch | list[Watch]] = {}
        self.count = 0
        """The number of watches."""
        self._is_waiting = asyncio.Event()

    def watch(self, request_id: str) -> Watch:
        """Return a watch of the request, to be entered."""
        return Watch(self, request_id)

    def add(self, request_id: str, watch: Watch) -> None:
        """Register a watch. Raises `TooManyWaiters`."""
        if self.count >= self._max_count:
            raise TooManyWaiters
        self.count += 1
        held = self._watches.get(request_id)
        match held:
            case None:
                self._watches[request_id] = watch
            case list():
                held.append(watch)
            case _:
                self._watches[request_id] = [held, watch]
        self._is_waiting.set()

    def remove(self, request_id: str, watch: Watch) -> None:
        """Forget a watch."""
        held = self._watches[request_id]
        if isinstance(held, list):
            held.remove(watch)
        if held is watch or not held:
            del self._watches[request_id]
        self.count -= 1
        if not self.count:
            self._is_waiting.clear()

    def wake(self, request_ids: Iterable[str]) -> None:
        """Wake the watches of these requests."""
        for request_id in request_ids:
            held = self._watches.get(request_id)
            if held is not None:
                for watch in held if isinstance(held, list) else (held,):
                    watch.wake()

    def wake_all(self) -> None:
        """Wake every watch: changes may have been missed."""
        self.wake(list(self._watches))

    async def wait_until_needed(self) -> None:
        """Return once there is a watch."""
        await self._is_waiting.wait()
