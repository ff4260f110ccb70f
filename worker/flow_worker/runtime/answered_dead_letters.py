"""Remembers which dead letters of a queue were answered: a bounded memory, and the journal behind it."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import NamedTuple

from flow_contracts.message import ReceivedMessage
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Journal
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

CAPACITY = 50_000
"""The dead letters that one round remembers, about 100 bytes each. The journal recognizes the others."""


_UNPROVEN = "unproven"


class Answered(NamedTuple):
    """What is known of an answered dead letter."""

    is_recorded: bool
    """The journal has the record, or needs none."""
    is_unproven: bool
    """Nobody has proven to be the sender of its request."""


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
        self._before: dict[bytes, Answered] = {}
        """The dead letters of the earlier rounds."""
        self._current: dict[bytes, Answered] = {}

    async def find(self, message: ReceivedMessage) -> Answered | None:
        """Return what is known of an answered dead letter; None if it has no answer yet.

        Raises `TemporarilyUnavailable`.
        """
        key = self._key_of(message)
        memory = _memory_key(key)
        known = self._current.get(memory, self._before.get(memory))
        if known is None:
            entry = await self._journal.find(key)
            if entry is None:
                return None
            known = Answered(is_recorded=True, is_unproven=entry.fingerprint == _UNPROVEN)
        elif not known.is_recorded:
            known = await self._recorded(key, is_unproven=known.is_unproven)
        self._remember(memory, known)
        return known

    async def add(
        self, message: ReceivedMessage, *, journalled: bool, is_unproven: bool = False, leaves: bool = False
    ) -> None:
        """Remember an answered dead letter; if `journalled`, also for other workers and after a restart.

        `is_unproven`: nobody has proven to be the sender of its request. `leaves`: the dead letter is about to be
        deleted, so it is journalled only if a later round meets it again.
        """
        key = self._key_of(message)
        if journalled and not leaves:
            answered = await self._recorded(key, is_unproven=is_unproven)
        else:
            answered = Answered(is_recorded=not journalled, is_unproven=is_unproven)
        self._remember(_memory_key(key), answered)

    def remembered(self, message: ReceivedMessage) -> Answered | None:
        """Return what this process remembers of a dead letter, without the journal."""
        memory = _memory_key(self._key_of(message))
        known = self._current.get(memory, self._before.get(memory))
        if known is not None:
            self._remember(memory, known)
        return known

    def pass_over(self, message: ReceivedMessage, *, is_unproven: bool) -> Answered:
        """Remember, in this process only, a dead letter that gets no answer."""
        known = Answered(is_recorded=True, is_unproven=is_unproven)
        self._remember(_memory_key(self._key_of(message)), known)
        return known

    def end_round(self) -> None:
        """Forget the dead letters that this round did not meet. Call it only if the round read the whole queue."""
        self._before, self._current = self._current, {}

    def _remember(self, memory: bytes, answered: Answered) -> None:
        if memory in self._current or len(self._current) < self._capacity:
            self._current[memory] = answered

    async def _recorded(self, key: str, *, is_unproven: bool) -> Answered:
        """Write the journal's record, and return if the journal has it. The next round repeats a failed write."""
        try:
            await self._journal.keep_mark(key, note=_UNPROVEN if is_unproven else "")
        except TemporarilyUnavailable as error:
            sentence = f"The worker answered a dead letter but could not record that in the journal: {error}"
            log(_log, logging.WARNING, "journal.write_failed", sentence, queue=self._queue)
            return Answered(is_recorded=False, is_unproven=is_unproven)
        return Answered(is_recorded=True, is_unproven=is_unproven)

    def _key_of(self, message: ReceivedMessage) -> str:
        """Return the journal's key. It is longer than any message ID, so that no sender can write such an ID."""
        place = [self._queue, message.sequence_number, message.enqueued_at.isoformat(), message.message_id]
        return f"dead letter answered {hashlib.sha512(json.dumps(place).encode()).hexdigest()}"


def _memory_key(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()[:16]
