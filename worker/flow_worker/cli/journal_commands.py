"""Carries out `flow-worker journal show` and `list`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from flow_worker import clock
from flow_worker.cli import journal_render, terminal
from flow_worker.cli.short_ids import ambiguous, is_meant
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Entry, open_listing
from flow_worker.journal.search import FoundEntries, find_all, flow_of, ids_of, last_event, search
from flow_worker.journal.store import Listing
from flow_worker.pipeline.job import continuation_id
from flow_worker.settings import IdentitySettings, InvalidSettings, JournalSettings, Layered, load_as

_MAX_WAITS = 20
"""The postponements of one step that a search for a continuation ID tries. The journal does not record them."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class JournalAccessSettings(Layered):
    """The part of the worker's settings that locates the journal."""

    journal: JournalSettings = JournalSettings()
    identity: IdentitySettings = IdentitySettings()


@dataclass(frozen=True, slots=True)
class Criteria:
    """Matches the entries that meet every criterion given."""

    flow: str | None = None
    state: str | None = None
    status: str | None = None
    newer_than: timedelta | None = None
    older_than: timedelta | None = None

    def match(self, entry: Entry, now: datetime) -> bool:
        """Return whether an entry meets every criterion. The age counts from the last event."""
        age = now - last_event(entry)
        return (
            (self.flow is None or flow_of(entry) == self.flow)
            and (self.state is None or entry.state == self.state)
            and (self.status is None or (entry.standing is not None and entry.standing.status == self.status))
            and (self.newer_than is None or age <= self.newer_than)
            and (self.older_than is None or age >= self.older_than)
        )


def parse_age(option: str, text: str | None) -> timedelta | None:
    """Return the time of an option such as `90s`, `15m`, `2h` or `3d`. Exit with 2 if it is malformed."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([smhd]?)", text.strip().lower())
    if found is None:
        terminal.fail(f"{option} must be a number with a unit, such as 90s, 15m, 2h or 3d, not '{text}'.", 2)
    return timedelta(seconds=float(found[1]) * _SECONDS[found[2] or "s"])


def show(id_: str, *, with_output: bool, as_json: bool, config: Path | None, env_file: Path | None) -> None:
    """Print the history of the requests with this ID; exit with 3 if the journal knows none."""
    id_ = id_.strip()
    found = _on_journal(config, env_file, lambda store: _find(store, id_))
    if meant := _meant(found, id_):
        if len(meant) > 1 and len(found.entries) > 1:
            terminal.fail(ambiguous(id_, meant), 2)
        id_ = meant[0]
    if not found.entries:
        terminal.fail(
            f"Unknown: the journal has no entry for {id_}, as a message, correlation, run or continuation ID."
            f"{_unreadable(found)} This does not tell whether its flow was called. The request may not have arrived or "
            "begun yet, or be refused or waiting in a queue; journal.retention_seconds may have passed; or another "
            "journal has it. `flow-worker deadletters show` searches the dead letters.",
            3,
        )
    if as_json:
        documents = [journal_render.as_json(entry, with_output=with_output) for entry in found.entries]
        terminal.echo(terminal.json_text(documents[0] if len(documents) == 1 else [*documents], indent=2))
        return
    if len(found.entries) > 1:
        sentence = f"{len(found.entries)} requests have the ID {id_}; the newest is first."
        terminal.out().print(terminal.plain(sentence, "bold"), "", sep="\n", soft_wrap=True)
    for entry in found.entries:
        journal_render.print_entry(terminal.out(), entry, with_output=with_output)


async def _find(store: Listing, id_: str) -> FoundEntries:
    """Return the entries with this ID; if there is none, those whose ID it may mean."""
    exact = await find_all(store, id_, _continuations, clock.now())
    if exact.entries or id_.startswith("continuation-"):
        return exact
    return await search(store, lambda entry: any(is_meant(each, id_) for each in ids_of(entry)), clock.now())


def _meant(found: FoundEntries, id_: str) -> list[str]:
    """Return the IDs that this text may mean; none if it is an ID itself."""
    every = [each for entry in found.entries for each in sorted(ids_of(entry))]
    return [] if id_ in every else [each for each in dict.fromkeys(every) if is_meant(each, id_)]


def list_(criteria: Criteria, *, limit: int, as_json: bool, config: Path | None, env_file: Path | None) -> None:
    """Print the newest entries that meet the criteria."""
    now = clock.now()
    found = _on_journal(
        config, env_file, lambda store: search(store, lambda entry: criteria.match(entry, now), now, limit=limit)
    )
    if as_json:
        terminal.echo(terminal.json_text([*map(journal_render.line_as_json, found.entries)], indent=2))
    else:
        journal_render.print_list(terminal.wide_out(), found)
    if found.unreadable:
        terminal.err().print(_unreadable(found).strip(), style="yellow", soft_wrap=True)


def _unreadable(found: FoundEntries) -> str:
    if not found.unreadable:
        return ""
    return f" A later version of the worker wrote {found.unreadable} entries, which this version cannot read."


def _continuations(entry: Entry) -> Iterator[str]:
    """Yield the message IDs that the continuations of a request may have."""
    numbers = {event.number for event in entry.history}
    numbers |= {part.number for part in (entry.step, entry.holder) if part is not None}
    for origin in entry.origins:
        for number in sorted(numbers | {max(numbers, default=0) + 1}):
            for waits in range(_MAX_WAITS + 1):
                yield continuation_id(origin, entry.message_id, number, waits)


def _on_journal(
    config: Path | None, env_file: Path | None, work: Callable[[Listing], Awaitable[FoundEntries]]
) -> FoundEntries:
    async def opened(settings: JournalAccessSettings) -> FoundEntries:
        path = settings.journal.path
        # SQLite would create the file, and the command would report an empty journal.
        if settings.journal.backend == "sqlite" and not path.is_file():
            raise InvalidSettings(
                f"journal.path: there is no journal at '{path}'. Run the command where the worker runs, or set "
                "journal.path"
            )
        # No reserve: the command only reads, and may run as another user than the worker.
        reading = settings.journal.model_copy(update={"reserve_bytes": 0})
        async with open_listing(reading, client_id=settings.identity.client_id) as store:
            return await work(store)

    try:
        return asyncio.run(opened(load_as(JournalAccessSettings, config, env_file)))
    except InvalidSettings as error:
        terminal.fail_settings(error)
    except TemporarilyUnavailable as error:
        terminal.fail(f"The journal is not readable now: {error.message}", 2)
