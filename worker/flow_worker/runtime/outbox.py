"""Sends a message repeatedly until its queue accepts it or a deadline ends."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.message import Message
from flow_contracts.servicebus import BeforeSend, ServiceBusFailure, ServiceBusUnavailable, unconditionally
from flow_worker.runtime.ports import MessageSender
from flow_worker.telemetry.outage_log import OutageEvents, OutageLog

_log = logging.getLogger(__name__)
_RETRYING = OutageEvents(
    failing="send.retrying",
    failing_sentence="The worker retries sending to '{}'",
    recovered="send.recovered",
    recovered_sentence="'{}' accepts messages again.",
    participants="messages",
)
_BACKOFF = ExponentialBackoff(first_seconds=0.2, max_seconds=3.0)

_TOGETHER_SECONDS = 5.0
"""The time for one batch. Nobody renews the locks of its requests meanwhile."""


class Outbox:
    """Delivers messages with deterministic IDs: duplicate detection drops a message that is sent twice."""

    def __init__(self, sender: MessageSender) -> None:
        self._sender = sender
        self._outages: dict[str, OutageLog] = {}

    async def deliver_together(
        self, queue: str, messages: Sequence[Message], *, before: BeforeSend = unconditionally
    ) -> None:
        """Make one attempt to deliver the messages as a batch: the caller delivers each of them if it fails.

        Raises `MessageTooLarge`, `ServiceBusFailure`, and whatever `before` raises.
        """
        try:
            async with asyncio.timeout(_TOGETHER_SECONDS):
                await self._sender.send_all(queue, messages, before)
        except TimeoutError:
            raise ServiceBusUnavailable(f"'{queue}' did not accept a batch within {_TOGETHER_SECONDS:g} s") from None

    async def deliver(
        self, queue: str, message: Message, *, seconds: float, before: BeforeSend = unconditionally
    ) -> None:
        """Return once the queue has accepted the message.

        Raises `MessageTooLarge` at once, because a retry cannot help, `ServiceBusUnavailable` after `seconds`, and
        whatever `before` raises.
        """
        outage = self._outages.setdefault(queue, OutageLog(_log, queue, _RETRYING))
        delivery = object()
        try:
            # The deadline covers all attempts and the pauses between them.
            async with asyncio.timeout(seconds):
                for failures in itertools.count():
                    try:
                        await self._sender.send(queue, message, before)
                    except ServiceBusFailure as error:
                        outage.failed(delivery, error)
                    else:
                        outage.recovered(delivery)
                        return
                    await asyncio.sleep(_BACKOFF.seconds(failures))
        except BaseException as error:
            outage.gave_up(delivery)
            if isinstance(error, TimeoutError):
                text = f"'{queue}' did not accept a message within {seconds:g} s"
                raise ServiceBusUnavailable(text) from None
            raise
