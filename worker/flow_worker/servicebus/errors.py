"""What can go wrong with a queue, as the worker needs to know it."""

from __future__ import annotations


class ServiceBusUnavailable(Exception):
    """The connection cannot be used (any more): throw it away and make a new one."""


class Undecodable(ServiceBusUnavailable):
    """The broker answered with a message that the SDK cannot decode."""


class LockLost(Exception):
    """The message's lock is gone: the broker will deliver it again, to whomever asks."""


class TooLarge(Exception):
    """The queue does not take a message of this size."""
