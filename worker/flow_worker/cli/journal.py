"""`flow-worker journal show`: print the history of one request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flow_worker.cli import terminal
from flow_worker.cli.terminal import AsJson, Config, EnvFile
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.settings import IdentitySettings, InvalidSettings, JournalSettings, Layered, load_as

if TYPE_CHECKING:
    from flow_worker.journal import Entry

cli = typer.Typer(no_args_is_help=True, help="Read the journal.")


class JournalAccessSettings(Layered):
    """The part of the worker's settings that locates the journal."""

    journal: JournalSettings = JournalSettings()
    identity: IdentitySettings = IdentitySettings()


@cli.callback()
def _group() -> None:
    """Read the journal."""
    # Without a callback Typer makes the only command the group itself, and `journal show` would not exist.


@cli.command()
def show(
    message_id: Annotated[str, typer.Argument(help="The request's message ID.")],
    with_output: Annotated[bool, typer.Option("--output", help="Print the flow's output too.")] = False,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = Path(".env"),
) -> None:
    """Print the history of one request; exit with 3 if the journal has no entry for it."""
    from flow_worker.cli import journal_render  # imported here: it needs the journal, which `send` does not

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
        typer.echo(terminal.json_text(journal_render.as_json(entry, with_output=with_output), indent=2))
    else:
        journal_render.print_entry(terminal.out, entry, with_output=with_output)


async def _find(settings: JournalAccessSettings, message_id: str) -> Entry | None:
    from flow_worker.journal import open_journal  # imported here: `send` needs no journal

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
