"""Brings back the dead-lettered results of requests that the store did not have, once it has them.

Gateways with different stores may have shared the reply queue by mistake, or a store was lost and restored, or the
caller has repeated its request. A result that no store knows stays where it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime
from typing import Final

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus import LockLost
from flow_worker.gateway.replies import ResultReply, reply_of
from flow_worker.gateway.store.port import GatewayStore, PutResult, ResultTooLarge
from flow_worker.gateway.waiters import Waiters
from flow_worker.runtime.ports import Bus, DeadLetterReader
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

REQUEST_UNKNOWN: Final = "request_unknown"
"""The reason of the dead letters, which the reader of the queue gives."""
_PAUSE_PER_BUSY_SECOND: Final = 20.0
_MAX_TAKEN: Final = 1000
"""Dead letters that one round removes: their numbers stay in memory, and the messages before them locked."""


class UnknownResults:
    """Examines the dead-letter queue of the gateway's reply queue, one round after another."""

    EVERY_SECONDS: Final = 300.0

    def __init__(self, queue: str, *, bus: Bus, store: GatewayStore, waiters: Waiters) -> None:
        self._queue = queue
        self._bus = bus
        self._store = store
        self._waiters = waiters
        self._busy_seconds = 0.0

    def pause_seconds(self) -> float:
        """Return the shortest pause before the next round, which follows from the cost of the last one."""
        return self._busy_seconds * _PAUSE_PER_BUSY_SECOND

    async def recover(self) -> None:
        """Put the results of known requests into the store, and delete their dead letters.

        Peeks first: a received dead letter is locked, and a person could not handle it meanwhile.
        Raises `ServiceBusFailure`, and `TemporarilyUnavailable` if the store does not work.
        """
        began = time.monotonic()
        try:
            async with self._bus.dead_letter_queue(self._queue) as dead_letters:
                stored = await self._stored(dead_letters)
                if stored:
                    await self._store.sync()
                    await self._delete(dead_letters, stored)
        finally:
            self._busy_seconds = time.monotonic() - began

    async def _stored(self, dead_letters: DeadLetterReader) -> dict[int, tuple[str | None, datetime]]:
        """Return the dead letters whose results the store has now, by sequence number."""
        stored: dict[int, tuple[str | None, datetime]] = {}
        async for dead_letter in dead_letters.peek():
            is_wanted = dead_letter.reason == REQUEST_UNKNOWN and len(stored) < _MAX_TAKEN
            if is_wanted and await self._put(dead_letter.message):
                stored[dead_letter.message.sequence_number] = _identity(dead_letter.message)
            await asyncio.sleep(0)
        return stored

    async def _put(self, message: ReceivedMessage) -> bool:
        """Return whether the store has a result of this request now."""
        reply = reply_of(message)
        if not isinstance(reply, ResultReply):
            return False
        try:
            put = await self._store.put_result(reply.request_id, reply.result, standing=reply.standing)
        except ResultTooLarge:
            return False
        if put is PutResult.STORED:
            self._waiters.wake([reply.request_id])
        return put is not PutResult.UNKNOWN

    async def _delete(self, dead_letters: DeadLetterReader, stored: dict[int, tuple[str | None, datetime]]) -> None:
        deleted = 0
        try:
            async for delivery in dead_letters.take(stored):
                # A queue that was deleted and created again assigns its numbers once more.
                if stored[delivery.message.sequence_number] == _identity(delivery.message):
                    try:
                        await dead_letters.complete(delivery)
                        deleted += 1
                    except LockLost:  # the next round meets it again
                        continue
        finally:
            await dead_letters.release()
        sentence = (
            f"The gateway's store has the requests of {deleted} dead-lettered results now; their owners read them."
        )
        log(_log, logging.INFO, "gateway.results_recovered", sentence, queue=self._queue, count=deleted)


def _identity(message: ReceivedMessage) -> tuple[str | None, datetime]:
    return message.message_id, message.enqueued_at
