"""Limits the bytes of results that the journal keeps for each sender."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

MAX_SENDERS = 10_000
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
    """

    def __init__(self, max_bytes_per_day: int, now: Callable[[], datetime]) -> None:
        self._max_bytes = max_bytes_per_day
        self._now = now
        self._senders: OrderedDict[str, _Kept] = OrderedDict()

    def take(self, sender: str, size: int) -> bool:
        """Count the bytes if the sender's share has room for them; return whether it has."""
        now = self._now()
        kept = self._senders.get(sender) or _Kept(0.0, now)
        elapsed = max(0.0, (now - kept.at).total_seconds())
        left = max(0.0, kept.size - elapsed * self._max_bytes / _SECONDS_PER_DAY)
        has_room = left + size <= self._max_bytes
        self._senders[sender] = _Kept(left + size if has_room else left, now)
        self._senders.move_to_end(sender)
        if len(self._senders) > MAX_SENDERS:
            self._senders.popitem(last=False)
        return has_room
