"""Assembles `flow-worker` from its command groups.

A command's module is imported when the command is asked for; `--help` of the program imports all of them. So these
modules only hold the commands' options, and import rich, pydantic, the settings and the worker's parts inside the
commands.
"""

from __future__ import annotations

from typing import Annotated

import typer

from flow_worker.cli.lazy_commands import LazyCommands, LazyGroup


class _Commands(LazyGroup):
    lazy_commands = LazyCommands(
        {
            "init": "init:init",
            "run": "worker:run",
            "gateway": "gateway:gateway",
            "check": "worker:check",
            "doctor": "doctor:doctor",
            "check-access": "access:check_access",
            "health": "worker:health",
            "status": "status:status",
            "send": "requests:send",
            "result": "requests:result",
            "deadletters": "dead_letters:cli",
            "journal": "journal:cli",
            "deliveries": "deliveries:cli",
            "demo": "demo:demo",
            "schema": "init:schema_cli",
        }
    )


cli = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # see `help_page`
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # rich's tracebacks print local variables, which contain tokens
    help="Calls Power Automate flows for requests from Service Bus, and publishes each result by correlation ID.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # imported here: no other command needs them

        from flow_worker.cli import terminal

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
