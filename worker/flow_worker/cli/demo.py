"""`flow-worker demo`: run the whole system on the emulator."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from flow_worker.cli import terminal
from flow_worker.cli.terminal import AsJson


def demo(
    as_json: AsJson = False,
    keep: Annotated[bool, typer.Option(help="Keep all three processes running until Ctrl-C.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print outputs, queues and dead letters.")] = False,
    burst: Annotated[int, typer.Option(min=0, max=100_000, help="Number of requests in the burst.")] = 200,
) -> None:
    """Run the whole system on the emulator; exit with 0 if every request ends as expected."""
    if importlib.util.find_spec("servicebus_emulator") is None:
        terminal.fail("The demo needs the package servicebus-emulator. Install it with flow-worker[demo].", 2)
    from rich.console import Console  # imported here, like the others: `send` needs none of them

    from flow_worker.demo.spinner import Spinner

    console = Console(stderr=as_json)
    with Spinner(console) as spinner:
        from flow_worker.demo.run import run_demo  # while the spinner turns: this import takes a while

        status = run_demo(console, spinner, as_json=as_json, keep=keep, burst=burst, verbose=verbose)
    raise typer.Exit(status)
