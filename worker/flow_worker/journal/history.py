"""Keeps the history of a request for people: a bounded list of events without secrets, inputs or outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

EventKind = Literal[
    "begun",
    "taken over",
    "waits to call",
    "waits to poll",
    "released",
    "concluded",
    "published",
    "settled",
    "events left out",
]

MAX_EVENTS = 100
FIRST_EVENTS = 20
"""A history keeps its first `FIRST_EVENTS` events and its latest ones; one event counts those left out in between."""
_MAX_DETAIL_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a request. If `count` is above 1, `at` is the time of the latest occurrence."""

    at: datetime
    kind: str
    """An `EventKind`; from the journal also the kind of a later version, so that it does not make the entry unreadable.
    """
    number: int
    """The number of the job: 0 is the request itself, n its n-th continuation."""
    detail: str = ""
    count: int = 1


def with_event(history: tuple[Event, ...], event: Event) -> tuple[Event, ...]:
    """Return the history with one more event. A status poll without news increases a count instead."""
    if len(event.detail) > _MAX_DETAIL_CHARACTERS:
        event = replace(event, detail=event.detail[:_MAX_DETAIL_CHARACTERS])
    match history:
        # The worker polls a run of two hours hundreds of times. Each poll adds a pair (begun, waits to poll). The pairs
        # would push all other events out of the history, so equal ones collapse into one event with a count.
        case (*before, Event(kind="waits to poll") as waited, Event(kind="begun")) if (
            event.kind == waited.kind and event.detail == waited.detail
        ):
            return (*before, replace(event, count=waited.count + 1))
    return _bounded((*history, event))


def _bounded(history: tuple[Event, ...]) -> tuple[Event, ...]:
    """Replace the two events after the first ones by one that counts them, if the history is too long."""
    if len(history) <= MAX_EVENTS:
        return history
    first, rest = history[:FIRST_EVENTS], history[FIRST_EVENTS + 2 :]
    left_out, next_left_out = history[FIRST_EVENTS : FIRST_EVENTS + 2]
    before = left_out.count if left_out.kind == "events left out" else 1
    return (*first, replace(next_left_out, kind="events left out", detail="", count=before + 1), *rest)
