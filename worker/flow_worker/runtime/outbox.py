"""Sends a message repeatedly until its queue accepts it or a deadline ends."""

from __future__ import annotations

import asyncio
import itertools
import logging

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.message import Message
from flow_contracts.servicebus import ServiceBusFailure, ServiceBusUnavailable
from flow_worker.runtime.ports import MessageSender
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_BACKOFF = ExponentialBackoff(first_seconds=0.2, max_seconds=3.0)


class Outbox:
    """Delivers messages with deterministic IDs: duplicate detection drops a message that is sent twice."""

    def __init__(self, sender: MessageSender) -> None:
        self._sender = sender

    async def deliver(self, queue: str, message: Message, *, seconds: float) -> None:
        """Return once the queue has accepted the message.

        Raises `MessageTooLarge` at once, because a retry cannot help, and `ServiceBusUnavailable` after `seconds`.
        """
        try:
            # The deadline covers all attempts and the pauses between them.
            async with asyncio.timeout(seconds):
                for failures in itertools.count():
                    try:
                        return await self._sender.send(queue, message)
                    except ServiceBusFailure as error:
                        self._log_retrying(queue, message, error)
                    await asyncio.sleep(_BACKOFF.seconds(failures))
        except TimeoutError:
            raise ServiceBusUnavailable(f"'{queue}' did not accept a message within {seconds:g} s") from None

    @staticmethod
    def _log_retrying(queue: str, message: Message, error: ServiceBusFailure) -> None:
        log(
            _log,
            logging.WARNING,
            "send.retrying",
            f"The worker retries sending a message: {error}",
            queue=queue,
            correlation_id=message.correlation_id,
        )
