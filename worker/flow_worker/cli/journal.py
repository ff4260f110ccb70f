"""`flow-worker journal show | list`: the commands and their options.

Each command imports `journal_commands` itself. That module needs the journal, which `send` does not.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from flow_worker.cli.parsing import Command, Group
from flow_worker.cli.terminal import AsJson, Config, EnvFile

cli = typer.Typer(cls=Group, add_completion=False, help="Read the journal.")


class EntryState(StrEnum):
    """The values of `--state`: see `journal.entry.State`."""

    LEASED = "leased"
    WAITING = "waiting"
    RELEASED = "released"
    CONCLUDED = "concluded"


class ResultStatus(StrEnum):
    """The values of `--status`: see `flow_contracts.result.Status`."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    EXPIRED = "expired"


@cli.command(cls=Command)
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A message, correlation, run or continuation ID.")],
    with_output: Annotated[bool, typer.Option("--output", help="Print the flow's output too.")] = False,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
) -> None:
    """Print the history of a request; exit with 3 if the journal does not know the ID.

    Several requests can have one correlation ID, for example after a replay. With --json they become a list.
    """
    from flow_worker.cli import journal_commands as commands

    commands.show(id_, with_output=with_output, as_json=as_json, config=config, env_file=env_file)


@cli.command("list", cls=Command)
def list_(
    flow: Annotated[str | None, typer.Option(help="Only requests for this flow.")] = None,
    state: Annotated[EntryState | None, typer.Option(case_sensitive=False, help="Only requests in this state.")] = None,
    status: Annotated[
        ResultStatus | None, typer.Option(case_sensitive=False, help="Only requests whose result has this status.")
    ] = None,
    newer_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Only requests with an event in this time: 90s, 15m, 2h."),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only requests without an event in this time: 2h, 3d.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Print at most this number; count all.")] = 50,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
) -> None:
    """List the requests in the journal, newest first."""
    from flow_worker.cli import journal_commands as commands

    criteria = commands.Criteria(
        flow=flow,
        state=state and state.value,
        status=status and status.value,
        newer_than=commands.parse_age("--newer-than", newer_than),
        older_than=commands.parse_age("--older-than", older_than),
    )
    commands.list_(criteria, limit=limit, as_json=as_json, config=config, env_file=env_file)
