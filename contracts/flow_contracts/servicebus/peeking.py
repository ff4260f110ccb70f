"""Peeks at messages, and decodes each one alone, when its turn comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus.calls import bounded
from flow_contracts.servicebus.conversion import from_sdk
from flow_contracts.servicebus.tolerant_transport import EncodedMessage

_PAGE = 100


async def peek(
    sdk: ServiceBusReceiver, count: int, from_sequence: int, seconds: float
) -> AsyncIterator[ServiceBusReceivedMessage]:
    """Yield up to `count` messages from a sequence number on; they stay. Raises the errors of `bounded`."""
    # Always with a sequence number. Without one, the SDK peeks on from the last message that it peeked or received.
    peeking = sdk.peek_messages(count, sequence_number=from_sequence)
    # The client's transport leaves the messages encoded, which the SDK's types do not say.
    for encoded in cast("list[EncodedMessage]", await bounded(peeking, seconds, "peek")):
        yield encoded.decode()
        # A page of large messages takes longer than one turn of the event loop may take.
        await asyncio.sleep(0)


async def browse(sdk: ServiceBusReceiver, seconds: float) -> AsyncIterator[ReceivedMessage]:
    """Yield every message in the order of the sequence numbers; all stay. `seconds` bounds each page.

    Raises the errors of `bounded`.
    """
    from_sequence, last = 1, None
    while last != from_sequence:  # until no message comes, or a page without order: peeking on could never end
        last = next_sequence = from_sequence
        async for raw in peek(sdk, _PAGE, from_sequence, seconds):
            message = from_sdk(raw)
            next_sequence = message.sequence_number + 1
            yield message
        from_sequence = max(from_sequence, next_sequence)
