"""Assembles `flow-worker` from its command groups.

Every module imported here runs at each start, also of `flow-worker send`. So these modules only hold the commands'
options and import the worker's parts inside the commands.
"""

from __future__ import annotations

import typer

from flow_worker.cli import access, dead_letters, demo, journal, requests, worker

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # rich's tracebacks print local variables, which contain tokens
    help="Calls Power Automate flows for requests from Service Bus, and publishes each result by correlation ID.",
)

cli.command()(worker.run)
cli.command()(worker.check)
cli.command()(access.check_access)
cli.command()(worker.health)
cli.command()(requests.send)
cli.command()(requests.result)
cli.add_typer(dead_letters.cli, name="deadletters")
cli.add_typer(journal.cli, name="journal")
cli.command()(demo.demo)
