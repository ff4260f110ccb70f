"""`flow-worker deliveries list | retry`: the commands and their options.

Each command imports `delivery_commands` itself. That module needs the journal, which `send` does not.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from flow_worker.cli.parsing import Command, Group
from flow_worker.cli.terminal import AsJson, Config, EnvFile

cli = typer.Typer(cls=Group, add_completion=False, help="List and retry the deliveries to sinks.")


class State(StrEnum):
    """The values of `--state`: see `delivery.port.DeliveryState`."""

    PENDING = "pending"
    ENDED = "ended"
    SETTLED = "settled"


Id = Annotated[str | None, typer.Argument(metavar="[ID]", help="Only those of this message or correlation ID.")]
Sink = Annotated[str | None, typer.Option(help="Only those of this sink.")]
WithState = Annotated[State | None, typer.Option(case_sensitive=False, help="Only those with this state.")]
GivenUp = Annotated[bool, typer.Option("--given-up", help="Only those that the worker gave up.")]


@cli.command("list", cls=Command)
def list_(
    id_: Id = None,
    sink: Sink = None,
    state: WithState = None,
    given_up: GivenUp = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Print at most this number; count all.")] = 50,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
) -> None:
    """List the deliveries that the sinks still have to get, the oldest first."""
    from flow_worker.cli import delivery_commands as commands

    criteria = commands.Criteria(id_, sink, state and state.value, given_up=given_up)
    commands.list_(criteria, limit=limit, as_json=as_json, config=config, env_file=env_file)


@cli.command(cls=Command)
def retry(
    id_: Id = None,
    sink: Sink = None,
    state: WithState = None,
    every: Annotated[bool, typer.Option("--all", help="Retry all of them.")] = False,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
) -> None:
    """Make deliveries due at once, also those that the worker gave up. A running worker then attempts them.

    Name an ID, a sink or a state, or give --all. Exits with 3 if there is no such delivery.
    """
    from flow_worker.cli import delivery_commands as commands

    criteria = commands.Criteria(id_, sink, state and state.value)
    commands.retry(criteria, every=every, as_json=as_json, config=config, env_file=env_file)
