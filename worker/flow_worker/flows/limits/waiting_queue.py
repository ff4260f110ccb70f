"""Keeps the order of the requests that wait for a flow."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

MAX_TICKETS = 10_000
"""Requests beyond this number are postponed too, but keep no place: they return as newcomers."""
FORGOTTEN_AFTER = timedelta(seconds=3)
"""The queue assumes that a ticket so long overdue went to another replica: a broker delivers within about a second."""
OVERTAKEN_BY = timedelta(seconds=0.5)
"""Service Bus delivers in the order of due times. If a ticket due this much later has returned, an absent one is with
another replica.
"""

_Place = tuple[datetime, int]


@dataclass(slots=True)
class _Ticket:
    place: _Place
    """The first due time, from which on a call is owed to the ticket; then the order of arrival."""
    due: datetime
    """The latest due time, at which the queue expects the ticket back."""
    sender: str


class WaitingQueue:
    """The tickets of postponed requests, ordered by their first due times.

    The order is by the *first* due time, not the latest. A request that returns in vain gets a later due time but keeps
    its place, so that newcomers cannot starve it.

    The requests themselves wait in Service Bus, and any replica may receive them. So the queue only expects them, and
    forgets those that do not return.
    """

    def __init__(self) -> None:
        self._tickets: dict[str, _Ticket] = {}
        # Two sorted lists of the same tickets: `_places` holds their turns, `_dues` the times of their return.
        self._places: list[_Place] = []
        self._dues: list[tuple[datetime, int, str]] = []
        self._arrivals = 0
        self._by_sender: Counter[str] = Counter()
        """The number of tickets of each sender, without zeros."""

    def __len__(self) -> int:
        return len(self._tickets)

    def put(self, ticket: str, due: datetime, sender: str = "") -> None:
        """Expect the ticket back at `due`. A known ticket keeps its place."""
        known = self._tickets.get(ticket)
        if known is not None:
            self._drop_due(ticket, known)
            known.due = due
        elif len(self._tickets) < MAX_TICKETS:
            self._arrivals += 1
            known = self._tickets[ticket] = _Ticket((due, self._arrivals), due, sender)
            self._by_sender[sender] += 1
            insort(self._places, known.place)
        else:
            return
        insort(self._dues, (due, known.place[1], ticket))

    def remove(self, ticket: str) -> None:
        """Remove the ticket if it is in the queue."""
        if (known := self._tickets.pop(ticket, None)) is not None:
            self._drop_due(ticket, known)
            del self._places[bisect_left(self._places, known.place)]
            self._by_sender[known.sender] -= 1
            if not self._by_sender[known.sender]:
                del self._by_sender[known.sender]

    def expected(self, now: datetime) -> int:
        """Return the number of tickets that are not overdue for long: the others went to another replica."""
        return len(self._dues) - bisect_left(self._dues, now - FORGOTTEN_AFTER, key=lambda due: due[0])

    def expected_by_sender(self, now: datetime) -> Mapping[str, int]:
        """Return the number of each sender's tickets; nothing if the queue expects none."""
        return self._by_sender if self.expected(now) else {}

    def count_of(self, sender: str, besides: str) -> int:
        """Return the number of the sender's tickets, without the ticket `besides`."""
        known = self._tickets.get(besides)
        return self._by_sender[sender] - (known is not None and known.sender == sender)

    def ahead_of(self, ticket: str) -> int:
        """Return how many tickets are before this one; all of them if it is new."""
        known = self._tickets.get(ticket)
        return len(self._places) if known is None else bisect_left(self._places, known.place)

    def owed_before(self, ticket: str, now: datetime) -> int:
        """Return the number of tickets before this one whose first due time has come."""
        owed = bisect_right(self._places, now, key=lambda place: place[0])
        return min(owed, self.ahead_of(ticket))

    def forget_absent(self, returned: str, now: datetime) -> None:
        """Forget the tickets that should have returned before `returned`, which is back now."""
        latest = now - FORGOTTEN_AFTER
        if (known := self._tickets.get(returned)) is not None:
            # A redelivery may return before its due time; then only the present time counts.
            latest = max(latest, min(known.due, now) - OVERTAKEN_BY)
        while self._dues and self._dues[0][0] < latest and self._dues[0][2] != returned:
            self.remove(self._dues[0][2])

    def _drop_due(self, ticket: str, known: _Ticket) -> None:
        del self._dues[bisect_left(self._dues, (known.due, known.place[1], ticket))]
