"""Reads the changes of the store while callers wait, and wakes those whose request has changed."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.store.port import NOW, Cursor, GatewayStore
from flow_worker.gateway.waiters import Waiters
from flow_worker.runtime.message_lock import set_within
from flow_worker.runtime.stopping import unless_set

_RETRY_SECONDS = 0.5


class ChangeFeed:
    """One read of the store per interval for all waiters of this replica, and none while nobody waits."""

    name = "change feed"

    def __init__(self, store: GatewayStore, waiters: Waiters) -> None:
        self._store = store
        self._waiters = waiters
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Read until stopped. A failure of the store ends nothing: the feed reads on from the same place later."""
        while not self._stopping.is_set():
            await unless_set(self._stopping, self._waiters.wait_until_needed())
            await self._follow()

    async def _follow(self) -> None:
        """Read while there are waiters."""
        cursor = NOW
        while self._waiters.count and not self._stopping.is_set():
            pause = _RETRY_SECONDS
            with suppress(TemporarilyUnavailable):  # the store reports its outages itself
                cursor, pause = await self._read(cursor)
            await set_within(self._stopping, pause)

    async def _read(self, cursor: Cursor) -> tuple[Cursor, float]:
        """Read once; return the next cursor and the pause."""
        changes = await self._store.changes(cursor)
        if cursor == NOW:
            # A change may have come between the read of a waiter and this first cursor.
            self._waiters.wake_all()
        self._waiters.wake(changes.request_ids)
        return changes.cursor, 0.0 if changes.has_more else self._store.feed_seconds

    def stop(self) -> None:
        """Begin no further read. Each read ends by itself, as it has a deadline."""
        self._stopping.set()

    def interrupt(self) -> None:
        """Do the same."""
        self.stop()
