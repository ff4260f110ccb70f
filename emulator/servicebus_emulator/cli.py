"""The emulator's command line: `python -m servicebus_emulator serve | token`."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from servicebus_emulator import config
from servicebus_emulator.host import CannotListen, Endpoints, serve_until_stopped
from servicebus_emulator.servicebus.access import AccessMode
from servicebus_emulator.servicebus.configuration.fields import ConfigError
from servicebus_emulator.servicebus.entities.storage import DataFolderError
from servicebus_emulator.transport.connection_rules import ConnectionRules
from servicebus_emulator.transport.open_files import raise_open_file_limit
from servicebus_emulator.transport.tls import CertificateFiles
from servicebus_emulator.transport.tls_context import CertificateError

DEFAULT_HTTP_PORT = 5380

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a rich traceback prints locals, and locals hold tokens
    help="Azure on a laptop: Service Bus over AMQP, managed identity, a token issuer, HTTP-triggered flows.",
)

Port = Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")]


def main() -> None:
    """The entry point of `servicebus-emulator` and of `python -m servicebus_emulator`."""
    cli(prog_name="servicebus-emulator")


@cli.command()
def serve(
    config_file: Annotated[
        Path | None, typer.Option("--config", help="A config.json in the official emulator's format.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    amqp_port: Port = 5672,
    http_port: Port = DEFAULT_HTTP_PORT,
    amqps_port: Annotated[int | None, typer.Option(min=0, max=65535, help="AMQP over TLS; default: off.")] = None,
    ws_port: Annotated[int | None, typer.Option(min=0, max=65535, help="AMQP over WebSocket; default: off.")] = None,
    wss_port: Annotated[int | None, typer.Option(min=0, max=65535, help="The same over TLS; default: off.")] = None,
    admin_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Administration and REST over HTTP; default: off.")
    ] = None,
    admin_https_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The same over HTTPS; default: off.")
    ] = None,
    certificates: Annotated[
        Path | None,
        typer.Option(
            help="Keep the TLS certificates in this folder; default: ~/.flow-worker-emulator.", file_okay=False
        ),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Your own certificate chain (PEM) instead.", dir_okay=False)
    ] = None,
    private_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).", dir_okay=False)] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="Another limit on connections; may be given more than once. An unknown "
            "name is answered with all there are.",
        ),
    ] = None,
    access: Annotated[
        AccessMode | None,
        typer.Option(
            help="Whether keys, tokens and rights are checked, or any token will do; default: as the "
            "configuration says, or else checked. The key SAS_KEY_VALUE of RootManageSharedAccessKey is always good, "
            "unless the configuration gives that policy another."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Keep queues and messages in this folder; default: nowhere.", file_okay=False)
    ] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C. Prints `ready {…}` once it listens; logs go to stderr."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        loaded = config.load(config_file)
    except ConfigError as error:
        _fail(f"Configuration {config_file or config.DEFAULT}: {error}", status=2)
    try:
        rules = ConnectionRules.parse(rule or ())
    except ValueError as error:
        _fail(f"--rule: {error}", status=2)
    files = CertificateFiles(certificates, certificate, private_key)
    endpoints = Endpoints(
        host, amqp_port, http_port, amqps_port, ws_port, wss_port, files, admin_port, admin_https_port
    )
    raise_open_file_limit(rules.max_connections)
    try:
        asyncio.run(serve_until_stopped(loaded, endpoints, ready=_say_ready, data=data, rules=rules, access=access))
    except CannotListen as error:
        _fail(str(error), status=1)
    except (CertificateError, DataFolderError) as error:
        _fail(str(error), status=2)


@cli.command()
def token(
    user: Annotated[str, typer.Option(help="A name, which always gets the same object ID, or the object ID.")],
    role: Annotated[list[str] | None, typer.Option(help="An app role; may be given more than once.")] = None,
    audience: Annotated[str | None, typer.Option(help="Default: the worker's own.")] = None,
    expires_in: Annotated[int, typer.Option(metavar="SECONDS", help="Negative: already expired.")] = 3600,
    forged: Annotated[bool, typer.Option("--forged", help="Signed by a key the issuer never published.")] = False,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = DEFAULT_HTTP_PORT,
    url: Annotated[str | None, typer.Option(help="The emulator's HTTP address, instead of --http-port.")] = None,
) -> None:
    """Print a user's token, and nothing else, as the running emulator's issuer signs it."""
    wanted: dict[str, object] = {
        "user": user,
        "roles": role or [],
        "audience": audience,
        "lifetime_seconds": expires_in,
        "forged": forged,
    }
    typer.echo(_minted(url or f"http://127.0.0.1:{http_port}", wanted))


def _minted(url: str, wanted: dict[str, object]) -> str:
    import httpx  # imported here: `serve` should start fast

    try:
        answer = httpx.post(f"{url.rstrip('/')}/emulator/token", json=wanted, timeout=10)
        said = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _fail(
            f"No emulator answers at {url} ({error}); start it with `servicebus-emulator serve`, or set --url",
            1,
        )
    except ValueError:
        _fail(f"What answers at {url} is not the emulator; say its address with --url", 1)
    if answer.is_error:
        _fail(f"The emulator refused: {said.get('error', {}).get('message', answer.status_code)}", 1)
    minted: str = said["access_token"]
    return minted


def _say_ready(line: str) -> None:
    typer.echo(f"ready {line}")
    sys.stdout.flush()


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(status)
