"""Receives an exact number of messages.

One call of the SDK returns the messages that have arrived so far, often fewer than requested.
"""

from __future__ import annotations

from azure.servicebus import ServiceBusReceivedMessage, ServiceBusReceiver
from azure.servicebus.aio import ServiceBusReceiver as AsyncServiceBusReceiver

WAIT = 10.0
"""Seconds to wait for the next message."""


async def receive(receiver: AsyncServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    """Return `count` messages in the order of their arrival. Raise `AssertionError` if fewer arrive."""
    messages: list[ServiceBusReceivedMessage] = []
    while len(messages) < count:
        batch = await receiver.receive_messages(count - len(messages), max_wait_time=WAIT)
        assert batch, f"{len(messages)} of {count} messages arrived"
        messages += batch
    return messages


def receive_blocking(receiver: ServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    """Return `count` messages from the blocking SDK. Raise `AssertionError` if fewer arrive."""
    messages: list[ServiceBusReceivedMessage] = []
    while len(messages) < count:
        batch = receiver.receive_messages(count - len(messages), max_wait_time=WAIT)
        assert batch, f"{len(messages)} of {count} messages arrived"
        messages += batch
    return messages
