"""Remembers which dead letters of a queue were answered: a bounded memory, and the journal behind it."""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import timedelta

from flow_contracts.message import ReceivedMessage
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import JobKey, Journal
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

CAPACITY = 50_000
"""The dead letters that one round remembers, about 100 bytes each. The journal recognizes the others."""


class AnsweredDeadLetters:
    """The answered dead letters of one queue.

    The identity of a dead letter is its place in the dead-letter queue: sequence number, enqueued time and message ID.
    The number alone does not suffice: a queue that was deleted and created again assigns its numbers once more.

    A round that was read to its end drops the dead letters that it did not meet: they left the queue. A memory that
    evicts the least recently used ones would forget each dead letter of a larger queue just before its next use.
    """

    def __init__(self, queue: str, journal: Journal, *, capacity: int = CAPACITY) -> None:
        self._queue = queue
        self._journal = journal
        self._capacity = capacity
        self._before: dict[bytes, bool] = {}
        """The dead letters of the earlier rounds. True: the journal has the record."""
        self._current: dict[bytes, bool] = {}

    async def contains(self, message: ReceivedMessage) -> bool:
        """Return whether the dead letter was answered. Raises `TemporarilyUnavailable`."""
        key = self._key_of(message)
        memory = _memory_key(key)
        is_recorded = self._current.get(memory, self._before.get(memory))
        if is_recorded is None:
            if await self._journal.find(key) is None:
                return False
            is_recorded = True
        self._remember(memory, is_recorded=is_recorded or await self._record(key))
        return True

    async def add(self, message: ReceivedMessage, *, journalled: bool) -> None:
        """Remember an answered dead letter; if `journalled`, also for other workers and after a restart."""
        key = self._key_of(message)
        self._remember(_memory_key(key), is_recorded=not journalled or await self._record(key))

    def end_round(self) -> None:
        """Forget the dead letters that this round did not meet. Call it only if the round read the whole queue."""
        self._before, self._current = self._current, {}

    def _remember(self, memory: bytes, *, is_recorded: bool) -> None:
        if memory in self._current or len(self._current) < self._capacity:
            self._current[memory] = is_recorded

    async def _record(self, key: str) -> bool:
        """Write the journal's record, and return whether the journal has it. The next round repeats a failed write."""
        job = JobKey(message_id=key, fingerprint=key, origin=key, number=0)
        try:
            # A lease without duration: the entry's existence is the record. A power cut may lose it (`repeatable`).
            await self._journal.acquire(job, duration=timedelta(0), calls=0, repeatable=True)
        except TemporarilyUnavailable as error:
            sentence = f"The worker answered a dead letter but could not record that in the journal: {error}"
            log(_log, logging.WARNING, "journal.write_failed", sentence, queue=self._queue)
            return False
        return True

    def _key_of(self, message: ReceivedMessage) -> str:
        """Return the journal's key. It is longer than any message ID, so that no sender can write such an ID."""
        place = [self._queue, message.sequence_number, message.enqueued_at.isoformat(), message.message_id]
        return f"dead letter answered {hashlib.sha512(json.dumps(place).encode()).hexdigest()}"


def _memory_key(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()[:16]
