"""Declares the deadlines of the Service Bus calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """The longest duration of each kind of Service Bus call, in seconds."""

    open_seconds: float = 30.0
    """Opening one sender or receiver; acquiring a token counts."""
    send_seconds: float = 30.0
    """One attempt to send. `FlowClient.submit` and `Background.submit` spend it on all their attempts together."""
    settle_seconds: float = 15.0
    """Completing, abandoning, dead-lettering, peeking; also the time that a receive may take beyond its wait."""
    renew_seconds: float = 15.0
    """Renewing the lock of a message or of a session."""
    receive_wait_seconds: float = 3.0
    """The wait of one receive for a message. `SessionReceiver.receive` takes its own wait."""
    probe_interval_seconds: float = 30.0
    """After this long without an answer from the broker, a receiver sends a request that the broker must answer."""
    session_seconds: float = 10.0
    """The time for which the adapter retries to open a session that another reader holds."""
