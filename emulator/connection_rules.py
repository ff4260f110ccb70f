"""How long the service puts up with a connection or a link that does nothing, and how many connections it takes.

Sources: Microsoft Learn, "AMQP errors in Azure Service Bus" (link idle 10 minutes, connection without links 60 seconds
and 5 minutes) and "Service Bus quotas" (5,000 concurrent connections). What a silent peer is granted is `Limits`'
`idle_timeout_ms`, because it is announced on the wire.
"""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class ConnectionRules:
    """Raises `ValueError` for what is not above zero."""

    max_connections: int = 5_000
    """At the same time, over all transports; more are refused with `amqp:resource-limit-exceeded`."""
    first_link_within_seconds: float = 60.0
    """From connecting; who is too late is closed with `amqp:connection:forced`, opened or not."""
    linkless_seconds: float = 300.0
    """Without any link after the first; then `amqp:connection:forced`."""
    idle_link_seconds: float = 600.0
    """Without flow, transfer or disposition on a link to an entity; then it is detached, `amqp:link:detach-forced`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; it must be above 0")
