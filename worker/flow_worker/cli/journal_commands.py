"""Carries out `flow-worker journal show`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from flow_worker.cli import journal_render, terminal
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Entry, open_journal
from flow_worker.settings import IdentitySettings, InvalidSettings, JournalSettings, Layered, load_as


class JournalAccessSettings(Layered):
    """The part of the worker's settings that locates the journal."""

    journal: JournalSettings = JournalSettings()
    identity: IdentitySettings = IdentitySettings()


def show(message_id: str, *, with_output: bool, as_json: bool, config: Path | None, env_file: Path | None) -> None:
    """Print the history of one request; exit with 3 if the journal has no entry for it."""
    try:
        entry = asyncio.run(_find(load_as(JournalAccessSettings, config, env_file), message_id))
    except InvalidSettings as error:
        terminal.fail_settings(error)
    except TemporarilyUnavailable as error:
        terminal.fail(f"The journal is not readable now: {error.message}", 2)
    if entry is None:
        terminal.fail(
            f"The journal has no entry for {message_id}. Either the worker did not call its flow: it refused the "
            "request, the request expired or waits, or it never arrived. Or the entry is gone: "
            "journal.retention_seconds have passed, or the journal was lost.",
            3,
        )
    if as_json:
        terminal.echo(terminal.json_text(journal_render.as_json(entry, with_output=with_output), indent=2))
    else:
        journal_render.print_entry(terminal.out, entry, with_output=with_output)


async def _find(settings: JournalAccessSettings, message_id: str) -> Entry | None:
    path = settings.journal.path
    # SQLite would create the file, and the command would report an empty journal.
    if settings.journal.backend == "sqlite" and not path.is_file():
        raise InvalidSettings(
            f"journal.path: there is no journal at '{path}'. Run the command where the worker runs, or set journal.path"
        )
    # No reserve: this command only reads, and may run as another user than the worker.
    reading = settings.journal.model_copy(update={"reserve_bytes": 0})
    async with open_journal(reading, client_id=settings.identity.client_id) as journal:
        return await journal.find(message_id)
