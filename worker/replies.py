"""Publishes results: tried until the reply queue has accepted one, or its named deadline is over."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Protocol

from contracts.message import Message
from worker.logs import log
from worker.outcome import Reply
from worker.servicebus import BusTrouble, TooLarge

_log = logging.getLogger(__name__)


class Outbox(Protocol):
    """Where messages are sent."""

    async def send(self, queue: str, message: Message) -> None:
        """Raises `TooLarge`, `BusTrouble`."""
        ...


class Replies:
    """Publishes each result under its deterministic message ID, so that doing it twice is doing it once."""

    def __init__(self, outbox: Outbox, *, time_to_live: timedelta, publish_seconds: float) -> None:
        self._outbox = outbox
        self._time_to_live = time_to_live
        self._publish_seconds = publish_seconds

    async def publish(self, reply: Reply) -> bool:
        """True once the reply queue has accepted the result. Raises `BusTrouble` after `publish_seconds`."""
        pause = 0.2
        try:
            async with asyncio.timeout(self._publish_seconds):
                while True:
                    try:
                        await self._send(reply)
                        return True
                    except BusTrouble as trouble:
                        self._say_retrying(reply, trouble)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 3.0)
        except TimeoutError:
            raise BusTrouble(f"'{reply.queue}' did not accept a result within {self._publish_seconds:g} s") from None

    async def _send(self, reply: Reply) -> None:
        session = reply.address.session_id
        try:
            await self._outbox.send(reply.queue, reply.result.to_message(session, self._time_to_live))
        except TooLarge:
            smaller = reply.result.without_output()
            await self._outbox.send(reply.queue, smaller.to_message(session, self._time_to_live))

    @staticmethod
    def _say_retrying(reply: Reply, trouble: BusTrouble) -> None:
        log(
            _log,
            logging.WARNING,
            "reply.retrying",
            f"A result could not be published yet and is tried again: {trouble}",
            queue=reply.queue,
            correlation_id=reply.address.correlation_id,
        )
