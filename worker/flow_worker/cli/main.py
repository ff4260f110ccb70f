"""The door: `flow-worker run | check | check-access | health | send | result | deadletters | journal | demo`."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated

import httpx
import typer

from flow_contracts.result import FlowResult
from flow_worker import settings
from flow_worker.cli import check_access, dead_letters, journal, sending, terminal
from flow_worker.cli.terminal import AsJson, Config, EnvFile
from flow_worker.settings import InvalidSettings, Settings
from flow_worker.telemetry import logs

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a rich traceback prints locals, and locals hold tokens
    help="Starts Power Automate flows from Service Bus requests and replies by correlation ID.",
)

cli.add_typer(dead_letters.cli, name="deadletters")
cli.add_typer(journal.cli, name="journal")


@cli.command()
def run(config: Config = None) -> None:
    """Take requests until SIGTERM or Ctrl-C, then finish what is at hand and exit 0."""
    from flow_worker import app  # imported here: `send` and `result` need not wait for the worker's parts

    loaded = _loaded(config)
    logs.configure(loaded.log.level, loaded.log.format)
    terminal.err.print_json(json.dumps({"settings": loaded.echo()}), indent=None, highlight=False)
    try:
        asyncio.run(app.run(loaded))
    except InvalidSettings as error:  # what shows only at the queues and at the journal
        terminal.fail(f"The settings do not hold:\n{error}", 2)
    except OSError as error:
        terminal.fail(
            f"{error}; is the health port ({loaded.health.host}:{loaded.health.port}) taken? Set health.port", 1
        )


@cli.command()
def check(config: Config = None) -> None:
    """Check the settings and print them, secrets masked."""
    terminal.out.print_json(json.dumps(_loaded(config).echo()))
    terminal.err.print("The settings hold.")


cli.command("check-access")(check_access.check_access)


@cli.command()
def health(
    config: Config = None,
    url: Annotated[str | None, typer.Option(help="Base URL; default: from the settings.")] = None,
) -> None:
    """Ask a running worker whether it is ready; exit 0 if it is, 1 if not."""
    if url is None:
        endpoint = _loaded(config).health
        host = "127.0.0.1" if endpoint.host in {"0.0.0.0", "::"} else endpoint.host  # noqa: S104 - compared, not bound
        url = f"http://{host}:{endpoint.port}"
    try:
        answer = httpx.get(f"{url}/health/ready", timeout=5)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        terminal.fail(f"No worker answers at {url} ({type(error).__name__}).", 1)
    typer.echo(answer.text)
    raise typer.Exit(0 if answer.status_code == 200 else 1)


@cli.command()
def send(
    flow: Annotated[str, typer.Argument(help="The flow's name.")],
    fields: Annotated[list[str] | None, typer.Argument(help="Input fields: name=text or name:=json.")] = None,
    input_: Annotated[
        str | None, typer.Option("--input", help="The whole input as JSON, @FILE, or - for stdin.")
    ] = None,
    correlation_id: Annotated[str | None, typer.Option(help="Default: a new random one.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the result; 0: do not.")] = 0,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = Path(".env"),
) -> None:
    """Post a request as a front end would; print its correlation ID. The claim comes from $FLOW_WORKER_CLAIM."""
    try:
        value = sending.parse_input(fields or [], input_)
        chosen = sending.load(config, env_file)
        sent, result = asyncio.run(sending.send(chosen, flow, value, correlation_id, wait))
    except (InvalidSettings, sending.SenderError) as error:
        terminal.fail(str(error), 2)
    typer.echo(sent, err=wait > 0)
    if wait > 0:
        _show(result, sent, as_json=as_json)


@cli.command()
def result(
    correlation_id: Annotated[str, typer.Argument(help="The correlation ID that `send` printed.")],
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for it; 0: look once.")] = 0,
    take: Annotated[bool, typer.Option(help="Take it off the reply queue; otherwise it stays.")] = False,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = Path(".env"),
) -> None:
    """Poll for a result; exit 0 if the flow succeeded, 1 if it ended otherwise, 3 if there is no result (yet)."""
    try:
        found = asyncio.run(sending.result(sending.load(config, env_file), correlation_id, wait, take=take))
    except (InvalidSettings, sending.SenderError) as error:
        terminal.fail(str(error), 2)
    _show(found, correlation_id, as_json=as_json)


@cli.command()
def demo(
    as_json: AsJson = False,
    keep: Annotated[bool, typer.Option(help="Keep emulator and worker running until Ctrl-C.")] = False,
    burst: Annotated[int, typer.Option(min=0, max=100_000, help="Requests in the burst.")] = 200,
) -> None:
    """Play the main job end to end on the emulator; exit 0 if every request ended as it should."""
    if importlib.util.find_spec("servicebus_emulator") is None:
        terminal.fail("The demo needs the package servicebus-emulator: install flow-worker[demo].", 2)
    from flow_worker.demo import play

    raise typer.Exit(play(as_json=as_json, keep=keep, burst=burst))


def _show(found: FlowResult | None, correlation_id: str, *, as_json: bool) -> None:
    if found is None:
        terminal.fail(f"No result for {correlation_id} (yet).", 3)
    if as_json or not sys.stdout.isatty():
        typer.echo(found.model_dump_json(exclude_none=True))
    else:
        terminal.out.print_json(found.model_dump_json(exclude_none=True))
    raise typer.Exit(0 if found.status == "succeeded" else 1)


def _loaded(config: Path | None) -> Settings:
    try:
        return settings.load(config)
    except InvalidSettings as error:
        terminal.fail(f"The settings do not hold:\n{error}", 2)
