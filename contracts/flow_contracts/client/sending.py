"""Sends a message repeatedly until its queue accepts it or a deadline ends."""

from __future__ import annotations

import asyncio

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.client.tracing import sending
from flow_contracts.message import Message
from flow_contracts.servicebus import ServiceBus, ServiceBusUnavailable


async def send_until_accepted(bus: ServiceBus, queue: str, message: Message, seconds: float) -> None:
    """Return once the broker accepted the message.

    A broken connection may lose the broker's answer, and the next attempt then sends the message twice. The queue's
    duplicate detection drops the copy by its message ID.

    Raises `ServiceBusUnavailable` after `seconds`. Raises `ServiceBusMisconfigured` and `MessageTooLarge` at once,
    because no retry helps.
    """
    with sending(queue, message) as traced:
        await _send(bus, queue, traced, seconds)


async def _send(bus: ServiceBus, queue: str, message: Message, seconds: float) -> None:
    # The caller gets the failure of the last attempt, which names the cause; this one only if no attempt ended.
    failure = ServiceBusUnavailable(f"'{queue}' did not accept a message within {seconds:g} s")
    try:
        async with asyncio.timeout(seconds):
            for pause in ExponentialBackoff(0.1, 2.0, growth=1.6).pauses():
                try:
                    return await bus.send(queue, message)
                except ServiceBusUnavailable as error:
                    failure = error
                await asyncio.sleep(pause)
    except TimeoutError:
        raise failure from None
