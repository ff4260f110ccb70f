"""`flow-worker journal show`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from flow_worker.cli import journal_render, terminal
from flow_worker.cli.terminal import AsJson, Config, EnvFile
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Entry, open_journal
from flow_worker.settings import IdentitySettings, InvalidSettings, JournalSettings, Layered, load_as

cli = typer.Typer(no_args_is_help=True, help="Read what the journal remembers.")


class StorySettings(Layered):
    """The part of the worker's settings that tells where the journal is."""

    journal: JournalSettings = JournalSettings()
    identity: IdentitySettings = IdentitySettings()


@cli.callback()
def _group() -> None:
    """Keep `show` a command of its own: Typer makes a lone command the group itself."""


@cli.command()
def show(
    message_id: Annotated[str, typer.Argument(help="The request's message ID.")],
    with_output: Annotated[bool, typer.Option("--output", help="Show the flow's output too.")] = False,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = Path(".env"),
) -> None:
    """Tell one request's whole story; exit 3 if the journal has none."""
    try:
        entry = asyncio.run(_found(load_as(StorySettings, config, env_file), message_id))
    except InvalidSettings as error:
        terminal.fail(f"The settings do not hold:\n{error}", 2)
    except TemporarilyUnavailable as reason:
        terminal.fail(f"The journal cannot be read now: {reason.message}", 2)
    if entry is None:
        terminal.fail(
            f"The journal has nothing about {message_id}. Its flow was not called: it was refused, expired, waits for "
            "its turn, or never came. Or it is longer ago than journal.retention_seconds.",
            3,
        )
    if as_json:
        typer.echo(json.dumps(journal_render.as_json(entry, with_output=with_output), indent=2))
    else:
        journal_render.show(terminal.out, entry, with_output=with_output)


async def _found(settings: StorySettings, message_id: str) -> Entry | None:
    path = settings.journal.path
    if settings.journal.backend == "sqlite" and not path.is_file():
        raise InvalidSettings(
            f"journal.path: there is no journal at '{path}'; run this where the worker runs, or set it"
        )
    async with open_journal(settings.journal, client_id=settings.identity.client_id) as journal:
        return await journal.find(message_id)
