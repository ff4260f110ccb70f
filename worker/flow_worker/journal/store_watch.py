"""Watches a store for the readiness report: by its operations, and by a probe while there are none."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.store import StoreReplaced
from flow_worker.telemetry.health import JournalHealth
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_PROBE_UNAVAILABLE_SECONDS = 1.0
_STEADY_SECONDS = 1.0
"""The store must have worked for this long before it counts as available again.

A disk that is nearly full takes small entries and refuses large ones.
"""


@dataclass(frozen=True, slots=True)
class WatchWords:
    """The words for a store in log lines."""

    name: str
    """For example "the journal"."""
    unavailable_event: str
    unavailable_sentence: str
    """The consequence; the error follows."""
    available_event: str
    available_sentence: str


class StoreWatch:
    """Reports to `health` whether a store takes new entries."""

    def __init__(self, health: JournalHealth, words: WatchWords, *, deadline_seconds: float) -> None:
        self._health = health
        self._words = words
        self._deadline = deadline_seconds
        self._worked_at = self._failed_at = float("-inf")

    async def keep_probing(self, every_seconds: float, probe: Callable[[], Awaitable[None]]) -> None:
        """Probe the store while no operation shows its state; end never. `probe` calls `worked` or raises."""
        while True:
            await self._probe_unless_busy(every_seconds, probe)
            available = self._health.is_available
            await asyncio.sleep(every_seconds if available else min(every_seconds, _PROBE_UNAVAILABLE_SECONDS))

    async def _probe_unless_busy(self, every_seconds: float, probe: Callable[[], Awaitable[None]]) -> None:
        if self._health.is_available and time.monotonic() - self._worked_at < every_seconds:
            return
        try:
            with suppress(TemporarilyUnavailable, TimeoutError):
                async with asyncio.timeout(self._deadline):
                    await probe()
        except Exception as error:  # noqa: BLE001 - the probing must not end; the store does not work this way
            self.failed(f"internal error ({type(error).__name__})")

    async def observed(self, operation: Awaitable[_T]) -> _T:
        """Return the result of an operation, and note its failure."""
        # Not an async context manager: it costs 2 µs more for each of a request's operations.
        begun = time.monotonic()
        try:
            return await operation
        except TemporarilyUnavailable as error:
            self._health.is_lost = self._health.is_lost or isinstance(error, StoreReplaced)
            self.failed(error.message)
            raise
        except asyncio.CancelledError:
            # The deadline of the operation cancels it. Others cancel too, but they do so sooner.
            if time.monotonic() - begun > self._deadline * 0.9:
                self.failed(f"{self._words.name} did not answer within {self._deadline:g} s")
            raise

    def worked(self) -> None:
        """Note that the store took a new entry."""
        self._worked_at = now = time.monotonic()
        if self._health.is_available or self._health.is_lost or now - self._failed_at < _STEADY_SECONDS:
            return
        self._health.mark_available()
        if self._failed_at == float("-inf"):
            return  # the first sign of a store that had not failed, but was not known to work either
        log(_log, logging.INFO, self._words.available_event, self._words.available_sentence)

    def failed(self, error: str) -> None:
        """Note that the store did not work."""
        self._failed_at = time.monotonic()
        was_available = self._health.is_available
        self._health.mark_unavailable(error)
        if was_available:
            sentence = f"{self._words.unavailable_sentence}: {error}"
            log(_log, logging.WARNING, self._words.unavailable_event, sentence)
