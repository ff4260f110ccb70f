"""The gateway's health: its connections to Service Bus, and its store."""

from __future__ import annotations

from flow_worker.telemetry.health import Health


class GatewayHealth(Health):
    """Reports whether this replica can accept requests and hand out results. `journal` is the state of the store."""

    def __init__(self) -> None:
        super().__init__()
        self.journal.mark_unavailable("the gateway starts")

    def report(self) -> dict[str, object]:
        """Return `ready`, `draining`, and the state of the store and of each queue."""
        report = super().report()
        names = {"ready": "ready", "draining": "draining", "journal": "store", "queues": "queues"}
        return {shown: report[name] for name, shown in names.items()}
