"""`flow-worker journal show`: the command and its options.

It imports `journal_commands` itself. That module needs the journal, which `send` does not.
"""

from __future__ import annotations

from typing import Annotated

import typer

from flow_worker.cli.terminal import AsJson, Config, EnvFile

cli = typer.Typer(no_args_is_help=True, help="Read the journal.")


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
    env_file: EnvFile = None,
) -> None:
    """Print the history of one request; exit with 3 if the journal has no entry for it."""
    from flow_worker.cli import journal_commands as commands

    commands.show(message_id, with_output=with_output, as_json=as_json, config=config, env_file=env_file)
