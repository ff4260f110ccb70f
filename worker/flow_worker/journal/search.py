"""Searches the entries of the journal by any ID of a request, by flow, state and age.

The store finds an entry by its message ID only, and the journal keeps no index of the other IDs: an index would cost
every request, and an older worker beside would not maintain it. A search therefore reads all entries.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from flow_worker.journal import document
from flow_worker.journal.entry import Entry
from flow_worker.journal.store import Listing

_STAND_IN = "dead-letter "
"""The prefix of the key of a result that occupies no message ID; see `pipeline.keys.stand_in`."""


@dataclass(slots=True)
class FoundEntries:
    """The entries that match, and what the search could not read."""

    entries: list[Entry] = field(default_factory=list)
    """Newest first, by the last event."""
    count: int = 0
    """The number of matches, also of those beyond the limit."""
    unreadable: int = 0
    """The number of documents that a later version of the worker wrote."""


async def search(
    store: Listing,
    matches: Callable[[Entry], bool],
    now: datetime,
    *,
    limit: int | None = None,
    needle: bytes = b"",
) -> FoundEntries:
    """Return the newest `limit` entries that match. Only documents with the bytes of `needle` are parsed."""
    found = FoundEntries()
    newest: list[tuple[datetime, int, Entry]] = []
    async for data in store.documents():
        if not data or needle not in data:
            continue
        try:
            entry = document.load(data)
        except document.UnreadableEntry:
            found.unreadable += 1
            continue
        # An entry without an origin is a mark without a request.
        if not entry.origin or now >= entry.expires or not matches(entry):
            continue
        found.count += 1
        item = (last_event(entry), found.count, entry)
        if limit is None or len(newest) < limit:
            heapq.heappush(newest, item)
        else:
            heapq.heappushpop(newest, item)
    found.entries = [entry for _, _, entry in sorted(newest, reverse=True)]
    return found


async def find_all(
    store: Listing, id_: str, continuations: Callable[[Entry], Iterable[str]], now: datetime
) -> FoundEntries:
    """Return the entries of the requests that have this ID: message, correlation, run or continuation ID.

    `continuations` returns the message IDs that the continuations of a request may have.
    """
    if id_.startswith("continuation-"):
        return await search(store, lambda entry: id_ in ids_of(entry) or id_ in continuations(entry), now)
    needle = json.dumps(id_, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")
    return await search(store, lambda entry: id_ in ids_of(entry), now, needle=needle)


def ids_of(entry: Entry) -> set[str]:
    """Return the IDs by which a person may know the request."""
    ids = {message_id_of(entry), entry.message_id, entry.correlation_id}
    for run in (entry.step and entry.step.run, entry.result and entry.result.run, entry.settled and entry.settled.run):
        ids.add(run.run_id if run else None)
    if entry.result is not None:
        ids |= {entry.result.correlation_id, entry.result.replay_of}
    return {id_ for id_ in ids if id_}


def message_id_of(entry: Entry) -> str:
    """Return the message ID of the request; a result without a proven sender is kept under another key."""
    is_apart = entry.message_id.startswith(_STAND_IN)
    return entry.result.request_message_id if entry.result and is_apart else entry.message_id


def correlation_id_of(entry: Entry) -> str | None:
    """Return the correlation ID of the request; None if a worker of an earlier version wrote the entry last."""
    return entry.result.correlation_id if entry.result else entry.correlation_id


def flow_of(entry: Entry) -> str | None:
    """Return the name of the flow; None if the entry does not have it."""
    return (entry.result.flow if entry.result else None) or entry.flow


def last_event(entry: Entry) -> datetime:
    """Return the time of the last event."""
    return entry.history[-1].at if entry.history else entry.expires
