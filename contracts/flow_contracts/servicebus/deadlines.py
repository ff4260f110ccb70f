"""Deadlines of the Service Bus calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long each Service Bus call may take, in seconds."""

    open_seconds: float = 30.0
    """Opening one sender or receiver; acquiring a token counts."""
    send_seconds: float = 30.0
    """One attempt to send. `FlowClient.submit` and `Background.submit` spend it on all their attempts together."""
    settle_seconds: float = 15.0
    """Completing, abandoning, dead-lettering, peeking; also how much longer than its wait a receive may take."""
    renew_seconds: float = 15.0
    """Renewing the lock of a message or of a session."""
    receive_wait_seconds: float = 3.0
    """How long one receive waits for a message. `SessionReceiver.receive` takes its own wait."""
    probe_interval_seconds: float = 30.0
    """After this long without an answer from the broker, a receiver sends a request that the broker must answer."""
    session_seconds: float = 10.0
    """How long opening a session is retried while another reader holds it."""
