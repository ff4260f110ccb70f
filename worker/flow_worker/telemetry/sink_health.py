"""The state of one sink of results, for health, status and metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SinkHealth:
    """The state of a sink, by its latest attempts. A failing sink never makes the worker unready."""

    is_available: bool = True
    last_error: str | None = None
    """The cause of the last failed attempt; None after a success."""
    delivered: int = 0
    """The deliveries that this process made."""
    given_up: int = 0
    """The deliveries that this process gave up."""
    in_flight: int = 0

    def mark_available(self) -> None:
        """An attempt has succeeded."""
        self.is_available, self.last_error = True, None

    def mark_failing(self, error: str) -> None:
        """An attempt has failed."""
        self.is_available, self.last_error = False, error

    def report(self) -> dict[str, object]:
        """Return the state as JSON values."""
        return {
            "available": self.is_available,
            "last_error": self.last_error,
            "in_flight": self.in_flight,
            "delivered": self.delivered,
            "given_up": self.given_up,
        }
