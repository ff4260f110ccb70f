"""Limits the bytes of results that the journal keeps for each sender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

MAX_SENDERS = 10_000
_FORGOTTEN_PART = 4
_SECONDS_PER_DAY = 86_400.0


@dataclass(slots=True)
class _Kept:
    """The bytes of one sender that count at the time `at`. They drain away steadily, a full share within a day."""

    size: float
    at: datetime


class JournalShare:
    """Counts the bytes of the outputs that the journal keeps for each sender.

    Beyond its share, a sender's results are published as always, and the journal keeps them without their outputs. So
    nobody can fill the disk on which all requests depend.

    The number of senders in memory is bounded. Those with the fewest bytes are forgotten first. So an attacker with
    many identities does not empty the share of a sender that has used it up.
    """

    def __init__(self, max_bytes_per_day: int, now: Callable[[], datetime]) -> None:
        self._max_bytes = max_bytes_per_day
        self._now = now
        self._senders: dict[str, _Kept] = {}

    def take(self, sender: str, size: int) -> bool:
        """Count the bytes if the sender's share has room for them; return whether it has."""
        now = self._now()
        if sender not in self._senders and len(self._senders) >= MAX_SENDERS:
            self._forget_some(now)
        kept = self._senders.get(sender)
        left = 0.0 if kept is None else self._left(kept, now)
        has_room = left + size <= self._max_bytes
        self._senders[sender] = _Kept(left + size if has_room else left, now)
        return has_room

    def _left(self, kept: _Kept, now: datetime) -> float:
        """Return the bytes that still count."""
        elapsed = max(0.0, (now - kept.at).total_seconds())
        return max(0.0, kept.size - elapsed * self._max_bytes / _SECONDS_PER_DAY)

    def _forget_some(self, now: datetime) -> None:
        """Forget a part of the senders: those with the fewest bytes. A part, because each time sorts all of them."""
        by_size = sorted(self._senders, key=lambda sender: self._left(self._senders[sender], now))
        for sender in by_size[: max(1, len(by_size) // _FORGOTTEN_PART)]:
            del self._senders[sender]
