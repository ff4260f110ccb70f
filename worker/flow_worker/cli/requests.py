"""`flow-worker send` and `result`: the commands and their options.

Each command imports `request_commands` itself. That module needs the client, which `--help` does not.
"""

from __future__ import annotations

from typing import Annotated

import typer

from flow_worker.cli.terminal import AsJson, Config, EnvFile

ConnectSeconds = Annotated[
    float, typer.Option(min=1, max=300, help="Seconds after which the command gives up if Service Bus does not answer.")
]


def send(
    flow: Annotated[str, typer.Argument(help="The flow's name.")],
    fields: Annotated[list[str] | None, typer.Argument(help="Input fields: name=text or name:=json.")] = None,
    input_: Annotated[str | None, typer.Option("--input", help="The whole input: JSON, @FILE, or - for stdin.")] = None,
    correlation_id: Annotated[str | None, typer.Option(help="Default: a new random one.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the result; 0: do not wait.")] = 0,
    connect_seconds: ConnectSeconds = 10,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
) -> None:
    """Post a request as a front end would and print its correlation ID. The claim comes from $FLOW_WORKER_CLAIM.

    With --json and without --wait, print a JSON object with the correlation ID and the reply key.
    """
    from flow_worker.cli import request_commands as commands

    commands.send(
        flow,
        fields or [],
        input_,
        correlation_id=correlation_id,
        wait=wait,
        connect=connect_seconds,
        as_json=as_json,
        config=config,
        env_file=env_file,
    )


def result(
    correlation_id: Annotated[str, typer.Argument(help="The correlation ID that `send` printed.")],
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the result; 0: poll once.")] = 0,
    take: Annotated[bool, typer.Option(help="Remove the result from the reply queue. Otherwise it stays.")] = False,
    connect_seconds: ConnectSeconds = 10,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
) -> None:
    """Poll for a result; exit with 0 if the flow succeeded, 1 for another status, 3 if there is no result yet.

    With the key of $FLOW_WORKER_REPLY_KEY, which `send` used too, it ignores forged results. Without, it prints any
    result with the correlation ID, and says on stderr that it is not verified.
    """
    from flow_worker.cli import request_commands as commands

    commands.result(
        correlation_id,
        wait=wait,
        take=take,
        connect=connect_seconds,
        as_json=as_json,
        config=config,
        env_file=env_file,
    )
