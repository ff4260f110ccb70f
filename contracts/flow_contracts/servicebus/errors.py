"""The errors of the adapter, split by remedy."""

from __future__ import annotations


class ServiceBusFailure(ConnectionError):
    """Service Bus did not do what the caller requested; the text names the operation, the cause and the remedy."""


class ServiceBusUnavailable(ServiceBusFailure):
    """The connection broke, or no answer came before the deadline: retry on a new connection."""


class ServiceBusMisconfigured(ServiceBusFailure):
    """Service Bus refuses until a person corrects a queue name, a role assignment or a credential."""


class SessionInUse(ServiceBusFailure):
    """Another reader holds the session: retry when that reader is done."""


class LockLost(Exception):
    """The message lock expired before the settlement: the broker delivers the message again."""


class MessageTooLarge(ValueError):
    """The message is larger than the queue accepts: send less."""
