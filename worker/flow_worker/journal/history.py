"""What happened to a request, for people: a bounded list of small events without secrets, inputs or outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

What = Literal[
    "begun", "taken over", "waits to call", "waits to poll", "released", "concluded", "published", "events left out"
]

MAX_EVENTS = 100
"""A story keeps its first `FIRST_EVENTS` and its last ones, and says how many it left out in between."""
FIRST_EVENTS = 20
_MAX_DETAIL = 300


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `at` is when it happened last, should `count` tell that it happened more than once."""

    at: datetime
    what: What
    number: int
    """Which message of the request it happened to: 0 is the request itself, n its n-th continuation."""
    detail: str = ""
    count: int = 1


def with_event(story: tuple[Event, ...], event: Event) -> tuple[Event, ...]:
    """The story with one more event. A poll that found nothing new is counted, not told again."""
    if len(event.detail) > _MAX_DETAIL:
        event = replace(event, detail=event.detail[:_MAX_DETAIL])
    match story:
        case (*before, Event(what="waits to poll") as waited, Event(what="begun")) if (
            event.what == waited.what and event.detail == waited.detail
        ):
            return (*before, replace(event, count=waited.count + 1))
    return _bounded((*story, event))


def _bounded(story: tuple[Event, ...]) -> tuple[Event, ...]:
    if len(story) <= MAX_EVENTS:
        return story
    first, one, other, rest = story[:FIRST_EVENTS], *story[FIRST_EVENTS : FIRST_EVENTS + 2], story[FIRST_EVENTS + 2 :]
    before = one.count if one.what == "events left out" else 1
    return (*first, replace(other, what="events left out", detail="", count=before + 1), *rest)
