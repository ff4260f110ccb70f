"""Limits on connections: their number, and the time for which a client may stay idle.

Sources in Microsoft Learn:

- "AMQP errors in Azure Service Bus": link idle 10 minutes, connection without links 60 seconds and 5 minutes.
- "Service Bus quotas": 5,000 concurrent connections.
- "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide": 20 seconds for the first token.

The idle timeout is the value that the service announces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

_MAX_IDLE_TIMEOUT_SECONDS = 0xFFFF_FFFF / 1000
"""The largest value that an AMQP open can announce."""


@dataclass(frozen=True, slots=True)
class ConnectionRules:
    """The limits. Raises `ValueError` for a value that is not above 0, or that an open cannot announce."""

    max_connections: int = 5_000
    """Concurrent connections over all transports. Further ones are closed with `amqp:resource-limit-exceeded`."""
    first_link_within_seconds: float = 60.0
    """From connecting to the first link; then the connection closes with `amqp:connection:forced`."""
    linkless_seconds: float = 300.0
    """Without any link, after the first one; then the connection closes with `amqp:connection:forced`."""
    idle_link_seconds: float = 600.0
    """Without flow, transfer or disposition; then the link to an entity is detached, `amqp:link:detach-forced`."""
    idle_timeout_seconds: float = 240.0
    """Announced in our open. Without any frame for so long: `amqp:resource-limit-exceeded`."""
    first_token_within_seconds: float = 20.0
    """From connecting to the first valid token at `$cbs`; then `amqp:unauthorized-access`."""

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
    def parse(cls, texts: Iterable[str]) -> ConnectionRules:
        """Return the defaults with changes such as `idle_link_seconds=30`.

        Raises `ValueError` for an unknown rule or a value that is not a number.
        """
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
        return cls(**changes)  # type: ignore[arg-type]  # each value has the type of its field
