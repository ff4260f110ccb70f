"""Folds the lines of an outage: without it, each of many lanes would log each attempt to reconnect.

A folded line is counted, and a later line reports the count. So the log hides no failure for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from flow_worker.telemetry.folding import EVERY_SECONDS, Later, Timer
from flow_worker.telemetry.logs import log


def _in_loop(seconds: float, call: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, call)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageEvents:
    """The events and sentences of an outage; a sentence's `{}` stands for the queue."""

    failing: str
    failing_sentence: str
    recovered: str
    recovered_sentence: str
    participants: str
    """The name of the field that counts the lanes or messages which wait."""


class OutageLog:
    """Logs one queue's outage: its first failure at once, then one line per interval, and its end.

    An error of another type has a different remedy, so it is logged at once, too.
    """

    def __init__(
        self,
        logger: logging.Logger,
        queue: str,
        events: OutageEvents,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        later: Later = _in_loop,
    ) -> None:
        self._logger = logger
        self._queue = queue
        self._events = events
        self._monotonic = monotonic
        self._later = later
        self._waiting: set[object] = set()
        self._next_line: dict[type[Exception], float] = {}
        self._next_end = float("-inf")
        self._began = 0.0
        self._error: Exception | None = None
        """The last one; None after the end of the outage."""
        self._unreported = 0
        self._attempts = 0
        self._timer: Timer | None = None

    def failed(self, participant: object, error: Exception) -> None:
        """Count a failed attempt of a participant, which tries again."""
        now = self._monotonic()
        if self._error is None:
            self._began, self._attempts = now, 0
        self._error = error
        self._waiting.add(participant)
        self._attempts += 1
        self._unreported += 1
        if now >= self._next_line.get(type(error), float("-inf")):
            self._write_failing()
        else:
            self._arm()

    def recovered(self, participant: object) -> None:
        """Note that an attempt of the participant succeeded; it ends the outage if no other participant waits."""
        self._waiting.discard(participant)
        if self._error is None or self._waiting:
            return
        if self._monotonic() >= self._next_end:
            self._write_recovered()
        else:
            self._arm()

    def gave_up(self, participant: object) -> None:
        """Note that the participant does not try again; no count may stay unreported behind it."""
        waited = participant in self._waiting
        self._waiting.discard(participant)
        if self._waiting or not self._unreported:
            return
        if waited:
            self._write_failing()
        else:
            self._write_recovered()

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self._later(EVERY_SECONDS, self._summarize)

    def _summarize(self) -> None:
        self._timer = None
        if self._error is None:
            return
        if not self._waiting:
            self._write_recovered()
        elif self._unreported:
            self._write_failing()

    def _write_failing(self) -> None:
        if (error := self._error) is None:
            return
        self._next_line[type(error)] = self._monotonic() + EVERY_SECONDS
        sentence = f"{self._events.failing_sentence.format(self._queue)}: {error}"
        self._write(logging.WARNING, self._events.failing, sentence, attempts=self._unreported)

    def _write_recovered(self) -> None:
        self._next_end = self._monotonic() + EVERY_SECONDS
        self._error = None
        seconds = round(self._monotonic() - self._began, 1)
        sentence = self._events.recovered_sentence.format(self._queue)
        self._write(logging.INFO, self._events.recovered, sentence, attempts=self._attempts, seconds=seconds)

    def _write(self, level: int, event: str, sentence: str, **fields: float) -> None:
        self._unreported = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = {self._events.participants: len(self._waiting)} if self._waiting else {}
        log(self._logger, level, event, sentence, queue=self._queue, **waiting, **fields)
