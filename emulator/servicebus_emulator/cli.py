"""The command line: `servicebus-emulator serve`, `token` and `settings`.

The commands import their parts themselves, so that `--help` and completion in a shell need none of them.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from servicebus_emulator.parsing import Command, Group

DEFAULT_HTTP_PORT = 5380

cli = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,  # see `help_page`
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # a rich traceback prints local variables, which hold tokens
    help="An Azure emulator: Service Bus over AMQP, managed identity, a token issuer, HTTP-triggered flows.",
)


class Access(StrEnum):
    """The values of `--access`: see `servicebus.access.AccessMode`."""

    CHECKED = "checked"
    OPEN = "open"


class SettingsForm(StrEnum):
    """The values of `--format`: see `worker_settings.Form`."""

    ENV = "env"
    POWERSHELL = "powershell"


HttpPort = Annotated[int, typer.Option("--http-port", min=1, max=65535, help="The emulator's HTTP port.")]
HttpUrl = Annotated[str | None, typer.Option("--url", help="The emulator's HTTP address. It overrides --http-port.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # imported here: no other command needs it

        _print(f"servicebus-emulator {version('servicebus-emulator')}")
        raise typer.Exit


@cli.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    # Without a docstring: the help text of the application stands in its place.
    pass


@cli.command(cls=Command)
def serve(
    config_file: Annotated[
        Path | None, typer.Option("--config", help="A config.json in the format of the official emulator.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    amqp_port: Port = 5672,
    http_port: Port = DEFAULT_HTTP_PORT,
    amqps_port: Annotated[int | None, typer.Option(min=0, max=65535, help="AMQP over TLS. Default: off.")] = None,
    ws_port: Annotated[int | None, typer.Option(min=0, max=65535, help="AMQP over WebSocket. Default: off.")] = None,
    wss_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="AMQP over WebSocket with TLS. Default: off.")
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Administration and REST over HTTP. Default: off.")
    ] = None,
    admin_https_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Administration and REST over HTTPS. Default: off.")
    ] = None,
    certificates: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the generated TLS certificates. Default: ~/.flow-worker-emulator.", file_okay=False
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="A certificate chain (PEM) to use instead of a generated certificate.", dir_okay=False),
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(help="The private key of --certificate (PEM).", dir_okay=False)
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="A limit on connections, such as idle_link_seconds=30. Repeat the option for several limits. "
            "An unknown name lists all limits.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name or address by which HTTP and WebSocket clients may address the emulator, beside localhost, "
            "127.0.0.0/8, ::1 and --host. Repeat the option for several names.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="An origin, such as http://localhost:3000, whose pages may use the emulator. Repeat the option for "
            "several origins.",
        ),
    ] = None,
    access: Annotated[
        Access | None,
        typer.Option(
            help="'checked' verifies keys, tokens and rights; 'open' accepts any token. Default: the configuration's "
            "value, or 'checked'. The policy RootManageSharedAccessKey has the key SAS_KEY_VALUE, unless the "
            "configuration sets another."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Keep queues and messages in this folder. Default: in memory only.", file_okay=False),
    ] = None,
) -> None:
    """Run the emulator until SIGTERM or Ctrl-C. Prints `ready {…}` once it listens. Logs go to stderr."""
    import asyncio
    import logging

    from servicebus_emulator import config
    from servicebus_emulator.host import CannotListen, Endpoints, serve_until_stopped
    from servicebus_emulator.servicebus.access import AccessMode
    from servicebus_emulator.servicebus.configuration.fields import ConfigError
    from servicebus_emulator.servicebus.entities.storage import DataFolderError
    from servicebus_emulator.transport.connection_rules import ConnectionRules
    from servicebus_emulator.transport.open_files import raise_open_file_limit
    from servicebus_emulator.transport.tls import CertificateFiles
    from servicebus_emulator.transport.tls_context import CertificateError
    from servicebus_emulator.transport.web_callers import WebCallers

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        loaded = config.load(config_file)
    except ConfigError as error:
        _fail(f"Configuration {config_file or config.DEFAULT}: {error}", status=2)
    try:
        rules = ConnectionRules.parse(rule or ())
    except ValueError as error:
        _fail(f"--rule: {error}", status=2)
    try:
        callers = WebCallers.parse(allow_host or (), allow_origin or ())
    except ValueError as error:
        _fail(str(error), status=2)
    files = CertificateFiles(certificates, certificate, private_key)
    endpoints = Endpoints(
        host, amqp_port, http_port, amqps_port, ws_port, wss_port, files, admin_port, admin_https_port, callers
    )
    raise_open_file_limit(rules.max_connections)
    try:
        mode = AccessMode(access) if access is not None else None
        asyncio.run(serve_until_stopped(loaded, endpoints, ready=_print_ready, data=data, rules=rules, access=mode))
    except CannotListen as error:
        _fail(str(error), status=1)
    except (CertificateError, DataFolderError) as error:
        _fail(str(error), status=2)


@cli.command(cls=Command)
def token(
    user: Annotated[
        str, typer.Option(help="A user name or an object ID. The same name always gets the same object ID.")
    ],
    role: Annotated[list[str] | None, typer.Option(help="An app role. Repeat the option for several roles.")] = None,
    audience: Annotated[str | None, typer.Option(help="The audience. Default: the worker's audience.")] = None,
    expires_in: Annotated[
        int, typer.Option(metavar="SECONDS", help="The lifetime. A negative number gives an expired token.")
    ] = 3600,
    forged: Annotated[bool, typer.Option("--forged", help="Sign with a key that the issuer does not publish.")] = False,
    http_port: HttpPort = DEFAULT_HTTP_PORT,
    url: HttpUrl = None,
) -> None:
    """Print a token for a user, signed by the issuer of the running emulator."""
    request: dict[str, object] = {
        "user": user,
        "roles": role or [],
        "audience": audience,
        "lifetime_seconds": expires_in,
        "forged": forged,
    }
    _print(_request_token(url or f"http://127.0.0.1:{http_port}", request))


@cli.command(cls=Command)
def settings(
    worker: Annotated[
        Path | None,
        typer.Option(
            "--worker",
            help="The worker's TOML file, whose flows move to the emulator. Default: flow-worker.toml, if it exists.",
            dir_okay=False,
        ),
    ] = None,
    form: Annotated[SettingsForm, typer.Option("--format", help="The form of the lines.")] = SettingsForm.ENV,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the lines to this file instead, in UTF-8.", dir_okay=False)
    ] = None,
    http_port: HttpPort = DEFAULT_HTTP_PORT,
    url: HttpUrl = None,
) -> None:
    """Print the settings with which a flow-worker runs on the running emulator, for `.env`."""
    from servicebus_emulator import worker_settings
    from servicebus_emulator.worker_settings import UnusableFile, WorkerFile

    default = Path("flow-worker.toml")
    path = worker or (default if default.is_file() else None)
    try:
        file = WorkerFile.read(path) if path is not None else None
    except UnusableFile as error:
        _fail(str(error), 2)
    ready = _ask("GET", "ready", url or f"http://127.0.0.1:{http_port}")
    if file is not None:
        for sentence in worker_settings.missing(ready, file):
            sys.stderr.write(f"{sentence}\n")
    text = worker_settings.render(worker_settings.variables(ready, file), worker_settings.Form(form))
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        _fail(f"{output} cannot be written: {error.strerror}", 2)


def _request_token(url: str, request: dict[str, object]) -> str:
    access_token: str = _ask("POST", "token", url, request)["access_token"]
    return access_token


def _ask(method: str, path: str, url: str, body: dict[str, object] | None = None) -> dict[str, Any]:
    """Return the answer of the running emulator's control API; exit with status 1 if there is none."""
    import httpx  # imported here because `serve` does not need it and must start fast

    try:
        response = httpx.request(method, f"{url.rstrip('/')}/emulator/{path}", json=body, timeout=10)
        answer: dict[str, Any] = response.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _fail(
            f"No emulator answers at {url} ({error}); start it with `servicebus-emulator serve`, or set --url",
            1,
        )
    except ValueError:
        _fail(f"The server at {url} is not the emulator; set its address with --url", 1)
    if response.is_error:
        _fail(f"The emulator refused: {answer.get('error', {}).get('message', response.status_code)}", 1)
    return answer


def _print_ready(line: str) -> None:
    _print(f"ready {line}")


def _print(line: str) -> None:
    # Not `typer.echo`, which writes UTF-8 to a stream whose encoding is ASCII.
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _fail(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise typer.Exit(status)
