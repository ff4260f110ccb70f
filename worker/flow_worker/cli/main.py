"""Assembles `flow-worker` from its command groups.

Every module imported here runs at each start, also of `--help` and of each completion in a shell. So these modules only
hold the commands' options, and import pydantic, the settings and the worker's parts inside the commands.
"""

from __future__ import annotations

from typing import Annotated

import typer

from flow_worker.cli import (
    access,
    dead_letters,
    demo,
    doctor,
    gateway,
    init,
    journal,
    requests,
    status,
    terminal,
    worker,
)
from flow_worker.cli.parsing import Command, Group

cli = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # rich's tracebacks print local variables, which contain tokens
    help="Calls Power Automate flows for requests from Service Bus, and publishes each result by correlation ID.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # imported here: no other command needs it

        terminal.echo(f"flow-worker {version('flow-worker')}")
        raise typer.Exit


@cli.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    # Without a docstring: the help text of the application stands in its place.
    pass


cli.command(cls=Command)(init.init)
cli.command(cls=Command)(worker.run)
cli.command(cls=Command)(gateway.gateway)
cli.command(cls=Command)(worker.check)
cli.command(cls=Command)(doctor.doctor)
cli.command(cls=Command)(access.check_access)
cli.command(cls=Command)(worker.health)
cli.command(cls=Command)(status.status)
cli.command(cls=Command)(requests.send)
cli.command(cls=Command)(requests.result)
cli.add_typer(dead_letters.cli, name="deadletters")
cli.add_typer(journal.cli, name="journal")
cli.command(cls=Command)(demo.demo)
cli.add_typer(init.schema_cli, name="schema")
