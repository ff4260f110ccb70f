"""Sends until the queue has accepted, or a named deadline is over."""

from __future__ import annotations

import asyncio
import logging

from flow_contracts.message import Message
from flow_contracts.servicebus import ServiceBusFailure, ServiceBusUnavailable
from flow_worker.runtime.ports import MessageSender
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 3.0


class Outbox:
    """Messages whose IDs are deterministic, so that sending one twice is sending it once."""

    def __init__(self, sender: MessageSender) -> None:
        self._sender = sender

    async def deliver(self, queue: str, message: Message, *, seconds: float) -> None:
        """Return once the queue has accepted it.

        Raises `MessageTooLarge` at once, and `ServiceBusUnavailable` after `seconds`.
        """
        pause = _FIRST_PAUSE_SECONDS
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self._sender.send(queue, message)
                    except ServiceBusFailure as trouble:
                        self._say_retrying(queue, message, trouble)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _MAX_PAUSE_SECONDS)
        except TimeoutError:
            raise ServiceBusUnavailable(f"'{queue}' did not accept a message within {seconds:g} s") from None

    @staticmethod
    def _say_retrying(queue: str, message: Message, trouble: ServiceBusFailure) -> None:
        log(
            _log,
            logging.WARNING,
            "send.retrying",
            f"A message could not be sent yet and is tried again: {trouble}",
            queue=queue,
            correlation_id=message.correlation_id,
        )
