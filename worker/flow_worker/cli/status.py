"""`flow-worker status`: the queues, lanes, flows and last results of a running worker."""

from __future__ import annotations

from typing import Annotated

import typer

from flow_worker.cli.terminal import AsJson, Config, EnvFile


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Print again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.5, max=3600, help="Seconds between two prints of --watch.")] = 2.0,
    url: Annotated[
        str | None, typer.Option(help="Base URL of the health endpoint. Default: from the settings.")
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
) -> None:
    """Print queue depths, lanes, flows with limits and circuit breakers, and the last results; exit with 1 if no worker
    answers.

    The worker answers callers on its own machine or in its container, unless health.status allows others.
    """
    from flow_worker.cli import status_commands  # imported here: it needs pydantic and Service Bus

    status_commands.status(config, env_file, url=url, watch_every=every if watch else None, as_json=as_json)
