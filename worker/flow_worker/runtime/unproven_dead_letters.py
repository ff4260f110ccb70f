"""Deletes answered dead letters of requests whose senders nobody has proven: anyone can make any number of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus import LockLost, ServiceBusFailure
from flow_worker.runtime.ports import DeadLetterReader
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_MAX_DELETED = 5_000
"""Dead letters that one round deletes; the next round deletes the rest."""
_MAX_FAILURES = 5
"""The failures in a row after which a round ends: the connection is lost, and each further one costs a deadline."""


class UnprovenDeadLetters:
    """Chooses and deletes the unproven dead letters of one queue, beyond an age and a number.

    The first ones stay, because a person who inspects a flood needs a sample of it. Every one has its answer.
    """

    def __init__(self, queue: str, *, retention: timedelta, max_count: int, now: Callable[[], datetime]) -> None:
        self._queue = queue
        self._retention = retention
        self._max_count = max_count
        self._now = now
        self._kept = 0
        self._surplus: dict[int, tuple[str | None, datetime]] = {}

    @property
    def has_surplus(self) -> bool:
        """True if `delete` has something to delete."""
        return bool(self._surplus)

    def begin_round(self) -> None:
        """Count anew."""
        self._kept = 0
        self._surplus.clear()

    def keeps(self, message: ReceivedMessage) -> bool:
        """Count an unproven dead letter, and return whether it stays; if not, `delete` deletes it."""
        if message.enqueued_at >= self._now() - self._retention and self._kept < self._max_count:
            self._kept += 1
            return True
        if len(self._surplus) < _MAX_DELETED:
            self._surplus[message.sequence_number] = (message.message_id, message.enqueued_at)
        return False

    async def delete(self, dead_letters: DeadLetterReader) -> None:
        """Delete the dead letters that do not stay.

        One failure may concern one dead letter, so the others are deleted. Raises `ServiceBusFailure` after several.
        """
        surplus, deleted, failures = dict(self._surplus), 0, 0
        self._surplus.clear()
        async for delivery in dead_letters.take(surplus):
            message = delivery.message
            # A queue that was deleted and created again assigns its numbers once more.
            if surplus[message.sequence_number] != (message.message_id, message.enqueued_at):
                continue
            try:
                await dead_letters.complete(delivery)
                deleted, failures = deleted + 1, 0
            except LockLost:  # the next round meets it again
                continue
            except ServiceBusFailure as error:
                failures += 1
                if failures >= _MAX_FAILURES:
                    raise
                sentence = f"The worker deletes a dead letter later: {error}"
                log(_log, logging.WARNING, "dead_letter.postponed", sentence, queue=self._queue)
        await dead_letters.release()
        sentence = f"The worker deleted {deleted} answered dead letters of requests without a proven sender."
        log(_log, logging.INFO, "dead_letter.deleted", sentence, queue=self._queue, count=deleted)
