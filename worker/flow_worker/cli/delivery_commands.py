"""Carries out `flow-worker deliveries list` and `retry`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flow_worker.cli import delivery_render, terminal
from flow_worker.delivery.build import outbox_of_command, outbox_store
from flow_worker.delivery.outbox import DeliveryOutbox
from flow_worker.delivery.owed import Owed, as_json_line
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.build import open_store
from flow_worker.settings import IdentitySettings, InvalidSettings, JournalSettings, Layered, OutboxSettings, load_as

_T = TypeVar("_T")


class OutboxAccessSettings(Layered):
    """The part of the worker's settings that locates the outbox."""

    journal: JournalSettings = JournalSettings()
    outbox: OutboxSettings = OutboxSettings()
    identity: IdentitySettings = IdentitySettings()


@dataclass(frozen=True, slots=True)
class Criteria:
    """Matches the deliveries that meet every criterion given."""

    id_: str | None = None
    sink: str | None = None
    state: str | None = None
    given_up: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether every delivery matches."""
        return (self.id_, self.sink, self.state, self.given_up) == (None, None, None, False)

    def match(self, owed: Owed) -> bool:
        """Return whether a delivery meets every criterion."""
        return (
            (self.id_ is None or self.id_.strip() in {owed.message_id, owed.replay_of, owed.correlation_id})
            and (self.sink is None or owed.sink == self.sink)
            and (self.state is None or owed.state == self.state)
            and (owed.is_given_up or not self.given_up)
        )


def list_(criteria: Criteria, *, limit: int, as_json: bool, config: Path | None, env_file: Path | None) -> None:
    """Print the oldest deliveries that meet the criteria."""
    found = _on_outbox(config, env_file, lambda outbox: _found(outbox, criteria))
    shown = sorted(found, key=lambda owed: owed.opened)[:limit]
    if as_json:
        terminal.echo(terminal.json_text([*map(as_json_line, shown)], indent=2))
    else:
        delivery_render.print_list(terminal.wide_out(), shown, count=len(found))


def retry(criteria: Criteria, *, every: bool, as_json: bool, config: Path | None, env_file: Path | None) -> None:
    """Make the deliveries due that meet the criteria."""
    if criteria.is_empty and not every:
        terminal.fail("Name what to retry: an ID, --sink, --state or --all.", 2)

    async def work(outbox: DeliveryOutbox) -> list[Owed]:
        # What the sink has already needs no attempt.
        wanted = [owed for owed in await _found(outbox, criteria) if not owed.is_parked]
        return [owed for owed in wanted if await outbox.retry(owed.key)]

    retried = _on_outbox(config, env_file, work)
    if as_json:
        terminal.echo(terminal.json_text([*map(as_json_line, retried)], indent=2))
    if not retried:
        terminal.fail("No delivery waits or was given up that matches. `flow-worker deliveries list` shows all.", 3)
    if not as_json:
        count = f"{len(retried)} {'delivery is' if len(retried) == 1 else 'deliveries are'}"
        terminal.out().print(f"{count} due now. A running worker attempts {'it' if len(retried) == 1 else 'them'}.")


async def _found(outbox: DeliveryOutbox, criteria: Criteria) -> list[Owed]:
    return [owed async for owed in outbox.all() if criteria.match(owed)]


def _on_outbox(config: Path | None, env_file: Path | None, work: Callable[[DeliveryOutbox], Awaitable[_T]]) -> _T:
    async def opened(settings: OutboxAccessSettings) -> _T:
        path = settings.journal.path
        # SQLite would create the file, and the command would report an empty outbox.
        if settings.journal.backend == "sqlite" and not path.is_file():
            raise InvalidSettings(
                f"journal.path: there is no journal at '{path}'. Run the command where the worker runs, or set "
                "journal.path"
            )
        # No reserve: the command may run as another user than the worker.
        journal = settings.journal.model_copy(update={"reserve_bytes": 0})
        store = await open_store(journal, settings.identity.client_id)
        try:
            table = await outbox_store(journal, settings.outbox, store, settings.identity.client_id)
            try:
                return await work(outbox_of_command(table, journal))
            finally:
                await table.close()
        finally:
            await store.close()

    try:
        return asyncio.run(opened(load_as(OutboxAccessSettings, config, env_file)))
    except InvalidSettings as error:
        terminal.fail_settings(error)
    except TemporarilyUnavailable as error:
        terminal.fail(f"The outbox is not readable now: {error.message}", 2)
