"""Receives results and states from the gateway's reply queue, and puts them into the store."""

from __future__ import annotations

from flow_worker.gateway.store.port import GatewayStore
from flow_worker.gateway.waiters import Waiters
from flow_worker.runtime.ports import Bus
from flow_worker.telemetry.health import LaneHealth


class ReplyReader:
    """One receiver of the reply queue. The receivers of all replicas compete, so that a killed one holds nothing up."""

    def __init__(
        self,
        name: str,
        queue: str,
        *,
        bus: Bus,
        store: GatewayStore,
        waiters: Waiters,
        health: LaneHealth,
        reconnect_max_seconds: float,
    ) -> None:
        """`waiters` of this replica wake at once; those of others learn of a result by the store's changes."""
        self.name = name

    async def run(self) -> None:
        """Work until stopped. Raise only for an internal error of the gateway."""
        raise NotImplementedError

    def stop(self) -> None:
        """Receive no further message; finish the current ones."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Stop waiting for the store: Service Bus delivers the current messages to another replica."""
        raise NotImplementedError
