"""How long the service puts up with who does nothing, and how many connections it takes.

Sources: Microsoft Learn, "AMQP errors in Azure Service Bus" (link idle 10 minutes, connection without links 60 seconds
and 5 minutes), "Service Bus quotas" (5,000 concurrent connections) and "AMQP 1.0 in Azure Service Bus and Event Hubs
protocol guide" (20 seconds for the first token); the idle timeout is what the service announces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

_MAX_IDLE_TIMEOUT_SECONDS = 0xFFFF_FFFF / 1000
"""What AMQP can announce."""


@dataclass(frozen=True, slots=True)
class ConnectionRules:
    """Raises `ValueError` for what is not above zero, or cannot be announced."""

    max_connections: int = 5_000
    """At the same time, over all transports; more are refused with `amqp:resource-limit-exceeded`."""
    first_link_within_seconds: float = 60.0
    """From connecting; who is too late is closed with `amqp:connection:forced`, opened or not."""
    linkless_seconds: float = 300.0
    """Without any link after the first; then `amqp:connection:forced`."""
    idle_link_seconds: float = 600.0
    """Without flow, transfer or disposition on a link to an entity; then it is detached, `amqp:link:detach-forced`."""
    idle_timeout_seconds: float = 240.0
    """Announced in our open: without any frame for so long the peer is closed, `amqp:resource-limit-exceeded`."""
    first_token_within_seconds: float = 20.0
    """From connecting; who has put no good token to `$cbs` by then is closed, `amqp:unauthorized-access`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                raise ValueError(f"{field.name} is {value}; it must be a number above 0")
        if not 0.001 <= self.idle_timeout_seconds <= _MAX_IDLE_TIMEOUT_SECONDS:
            raise ValueError(
                f"idle_timeout_seconds is {self.idle_timeout_seconds}; it must be from 0.001 to"
                f" {_MAX_IDLE_TIMEOUT_SECONDS:.0f}"
            )

    @classmethod
    def of(cls, texts: Iterable[str]) -> ConnectionRules:
        """The defaults, changed by texts of the form `idle_link_seconds=30`. Raises `ValueError`."""
        kinds = {field.name: int if isinstance(field.default, int) else float for field in fields(cls)}
        changes: dict[str, float] = {}
        for text in texts:
            name, _, value = text.partition("=")
            if name not in kinds:
                raise ValueError(f"there is no rule '{name}'; there are {', '.join(kinds)}")
            try:
                changes[name] = kinds[name](value)
            except ValueError:
                raise ValueError(f"{name} is '{value}'; it must be a number, as in {name}=30") from None
        return cls(**changes)  # type: ignore[arg-type]  # each is of its field's kind
