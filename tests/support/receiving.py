"""As many messages as asked for: one call of the SDK returns what has come, which need not be all."""

from __future__ import annotations

from azure.servicebus import ServiceBusReceivedMessage, ServiceBusReceiver
from azure.servicebus.aio import ServiceBusReceiver as AsyncServiceBusReceiver

WAIT = 10.0
"""Seconds within which the next message comes."""


async def receive(receiver: AsyncServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    """`count` messages, in the order of their arrival.

    Raises:
        AssertionError: Fewer came.
    """
    got: list[ServiceBusReceivedMessage] = []
    while len(got) < count:
        some = await receiver.receive_messages(count - len(got), max_wait_time=WAIT)
        assert some, f"{len(got)} of {count} messages came"
        got += some
    return got


def receive_blocking(receiver: ServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    """The same for the blocking SDK.

    Raises:
        AssertionError: Fewer came.
    """
    got: list[ServiceBusReceivedMessage] = []
    while len(got) < count:
        some = receiver.receive_messages(count - len(got), max_wait_time=WAIT)
        assert some, f"{len(got)} of {count} messages came"
        got += some
    return got
