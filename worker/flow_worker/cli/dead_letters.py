"""`flow-worker deadletters list | show | replay | discard`: the commands and their options.

Each command imports `dead_letter_commands` itself. That module needs the worker's pipeline, which `send` does not.
"""

from __future__ import annotations

from typing import Annotated

import typer

from flow_worker.cli.parsing import Command, Group
from flow_worker.cli.terminal import AsJson, Config, EnvFile

cli = typer.Typer(cls=Group, add_completion=False, help="List, show, replay and discard dead letters.")

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Sequence numbers, message or correlation IDs.")]
Queues = Annotated[list[str] | None, typer.Option("--queue", help="Only dead letters of this queue. Repeatable.")]
Reason = Annotated[str | None, typer.Option(help="Only dead letters with this dead-letter reason.")]
Flow = Annotated[str | None, typer.Option(help="Only requests for this flow.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the effect.")]


@cli.command("list", cls=Command)
def list_(
    queue: Queues = None,
    reason: Reason = None,
    flow: Flow = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Print at most this number; count all.")] = None,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
) -> None:
    """List dead letters and count them by reason."""
    from flow_worker.cli import dead_letter_commands as commands

    criteria = commands.Criteria(queues=queue or [], reason=reason, flow=flow)
    commands.list_(commands.load(config, env_file), criteria, limit=limit, as_json=as_json)


@cli.command(cls=Command)
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A sequence number, message ID or correlation ID.")],
    queue: Queues = None,
    with_input: Annotated[bool, typer.Option("--input", help="Print the flow's input too.")] = False,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
) -> None:
    """Print the whole of one dead letter except its claim; exit with 3 if there is no such dead letter."""
    from flow_worker.cli import dead_letter_commands as commands

    criteria = commands.Criteria(queues=queue or [], ids=[id_])
    commands.show(commands.load(config, env_file), criteria, with_input=with_input, as_json=as_json)


@cli.command(cls=Command)
def replay(
    ids: Ids = None,
    queue: Queues = None,
    reason: Reason = None,
    flow: Flow = None,
    everything: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
) -> None:
    """Create a new request from each dead letter, with the old correlation ID; exit with 1 if any is left.

    The worker calls the flow again, even if it ran for the dead letter.
    """
    from flow_worker.cli import dead_letter_commands as commands

    criteria = commands.Criteria(queues=queue or [], ids=ids or [], reason=reason, flow=flow, everything=everything)
    commands.replay(commands.load(config, env_file), criteria, yes=yes, dry_run=dry_run, as_json=as_json)


@cli.command(cls=Command)
def discard(
    ids: Ids = None,
    queue: Queues = None,
    reason: Reason = None,
    flow: Flow = None,
    everything: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
) -> None:
    """Delete dead letters, the last copy of their requests and inputs; exit with 1 if any is left."""
    from flow_worker.cli import dead_letter_commands as commands

    criteria = commands.Criteria(queues=queue or [], ids=ids or [], reason=reason, flow=flow, everything=everything)
    commands.discard(commands.load(config, env_file), criteria, yes=yes, dry_run=dry_run, as_json=as_json)
