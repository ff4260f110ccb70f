"""Purges the journal, but only by a time that the broker has proven."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

RETRY_SECONDS = 1.0
"""The pause before the next look for a proof."""


class JournalPurge:
    """Deletes expired entries at an interval.

    A machine whose clock is ahead by the retention would delete every entry at its start, also the leases of calls
    under way. The first message that it receives proves the broker's time.
    """

    def __init__(
        self, purge: Callable[[], Awaitable[object]], is_time_proven: Callable[[], bool], *, every_seconds: float
    ) -> None:
        self._purge = purge
        self._is_time_proven = is_time_proven
        self._every = every_seconds
        self._waits = True

    async def purge(self) -> None:
        """Delete the expired entries if the time is proven. Raises `TemporarilyUnavailable`."""
        self._waits = not self._is_time_proven()
        if not self._waits:
            await self._purge()

    def pause_seconds(self) -> float:
        """Return the pause before the next round."""
        return min(RETRY_SECONDS, self._every) if self._waits else self._every
