"""Who waits for a flow, and in which order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from datetime import datetime, timedelta

MAX_TICKETS = 10_000
"""In one line. Who waits beyond them is told a time all the same, but comes back as one unknown."""
FORGOTTEN_AFTER = timedelta(seconds=3)
"""After its due time a ticket is taken to be with another replica; a broker delivers within a second or so."""
OVERTAKEN_BY = timedelta(seconds=0.5)
"""The queue delivers in order of due time: who is absent when one due this much later is back, is elsewhere."""

_Place = tuple[datetime, int]


@dataclass(slots=True)
class _Ticket:
    place: _Place
    """Since when a place is owed to it: its first due time, and the order of arrival where these are equal."""
    due: datetime


class Line:
    """The tickets of the requests that were sent away, in the order of their first due times.

    Who comes back in vain keeps its place, and gets a later due time.
    """

    def __init__(self) -> None:
        self._tickets: dict[str, _Ticket] = {}
        self._places: list[_Place] = []
        self._dues: list[tuple[datetime, int, str]] = []
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def put(self, ticket: str, due: datetime) -> None:
        """It is sent away until `due`."""
        known = self._tickets.get(ticket)
        if known is not None:
            self._drop_due(ticket, known)
            known.due = due
        elif len(self._tickets) < MAX_TICKETS:
            self._arrivals += 1
            known = self._tickets[ticket] = _Ticket((due, self._arrivals), due)
            insort(self._places, known.place)
        else:
            return
        insort(self._dues, (due, known.place[1], ticket))

    def remove(self, ticket: str) -> None:
        """It waits no longer, or never did."""
        if (known := self._tickets.pop(ticket, None)) is not None:
            self._drop_due(ticket, known)
            del self._places[bisect_left(self._places, known.place)]

    def ahead_of(self, ticket: str) -> int:
        """How many are before it; all, if it is new."""
        known = self._tickets.get(ticket)
        return len(self._places) if known is None else bisect_left(self._places, known.place)

    def owed_before(self, ticket: str, now: datetime) -> int:
        """How many of those before it have a right to a place by now."""
        owed = bisect_right(self._places, now, key=lambda place: place[0])
        return min(owed, self.ahead_of(ticket))

    def forget_absent(self, returned: str, now: datetime) -> None:
        """Forget those who should have been back by now, seeing that `returned` is."""
        latest = now - FORGOTTEN_AFTER
        if (known := self._tickets.get(returned)) is not None:
            latest = max(latest, min(known.due, now) - OVERTAKEN_BY)
        while self._dues and self._dues[0][0] < latest and self._dues[0][2] != returned:
            self.remove(self._dues[0][2])

    def _drop_due(self, ticket: str, known: _Ticket) -> None:
        del self._dues[bisect_left(self._dues, (known.due, known.place[1], ticket))]
