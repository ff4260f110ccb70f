"""Reads the changes of the store while callers wait, and wakes those whose request has changed."""

from __future__ import annotations

from flow_worker.gateway.store.port import GatewayStore
from flow_worker.gateway.waiters import Waiters


class ChangeFeed:
    """One read of the store per interval for all waiters of this replica, and none while nobody waits."""

    name = "change feed"

    def __init__(self, store: GatewayStore, waiters: Waiters) -> None:
        self._store = store
        self._waiters = waiters

    async def run(self) -> None:
        """Read until stopped. A failure of the store ends nothing: the feed reads again, then wakes every waiter."""
        raise NotImplementedError

    def stop(self) -> None:
        """Begin no further read."""
        raise NotImplementedError
