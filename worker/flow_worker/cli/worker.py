"""`flow-worker run`, `check` and `health`: run the worker, validate its settings, query its readiness."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flow_worker.cli import terminal
from flow_worker.cli.process import Format, Level, run_until_stopped, with_log
from flow_worker.cli.terminal import Config, EnvFile, plain

if TYPE_CHECKING:
    from flow_worker.settings import HealthSettings, Settings

_log = logging.getLogger(__name__)


def run(config: Config = None, env_file: EnvFile = None, log_level: Level = None, log_format: Format = None) -> None:
    """Process requests until SIGTERM or Ctrl-C; then finish the running requests and exit with 0."""
    # Imported here: `send` and `result` would otherwise import all of the worker.
    from functools import partial

    from flow_worker import app
    from flow_worker.telemetry import logs
    from flow_worker.telemetry.uncaught import log_uncaught

    loaded = with_log(_load(config, env_file), log_level, log_format)
    logs.configure(loaded.log.level, loaded.log.format)
    log_uncaught()
    _say_start(loaded)
    log_failure = partial(logs.log, _log, logging.CRITICAL, "worker.failed", "The worker ends with an internal error.")
    run_until_stopped(partial(app.run, loaded), loaded.stop_seconds, log_failure)


def _say_start(loaded: Settings) -> None:
    """Say what starts: a few lines for people, or one line of the log if that is for programs."""
    from flow_worker.cli import banner
    from flow_worker.telemetry import logs

    if loaded.log.format == "text":
        terminal.echo(banner.banner(loaded), to_stderr=True)
    else:
        logs.log(_log, logging.INFO, "worker.starting", "The worker starts.", **banner.summary(loaded))


def check(config: Config = None, env_file: EnvFile = None) -> None:
    """Validate the settings and print them, with secrets masked. It connects to nothing: see `doctor`."""
    from flow_worker.cli import check_gateway
    from flow_worker.runtime.seal_keys import find_seal
    from flow_worker.settings import InvalidSettings

    loaded = _load(config, env_file)
    try:
        seal = find_seal(loaded.continuations, loaded.journal)
        check_gateway.require_usable_keys(loaded)
        of_gateway = check_gateway.queue_warnings(loaded)
    except InvalidSettings as error:
        terminal.fail_settings(error)
    err = terminal.err()
    terminal.out().print_json(json.dumps(loaded.echo()))
    if seal is None:
        err.print("The worker creates the key that seals continuation messages at its first start.")
    else:
        err.print(f"Key that seals continuation messages: {seal.key.id}. All workers must show the same.")
        if seal.previous is not None:
            err.print(f"Previous key, of which the worker accepts seals: {seal.previous.id}.")
        if seal.accepts_unsealed:
            err.print("Unsealed continuation messages are accepted from anybody who may send to their queue.")
    for line in check_gateway.statement_keys(loaded):
        err.print(plain(line), soft_wrap=True)
    for warning in (*_warnings(loaded), *of_gateway):
        err.print(plain(f"Warning: {warning}", "yellow"), soft_wrap=True)
    err.print("The settings are valid. Nothing was connected to; `flow-worker doctor` does that.")


def _warnings(loaded: Settings) -> list[str]:
    """Return the settings that are valid, and with which requests probably fail that somebody wants to succeed."""
    from flow_worker.settings.placeholders import placeholders

    flows = [f"'{name}'" for name, flow in loaded.flows.items() if flow.privilege is not None]
    legacy = [name for name, flow in loaded.flows.items() if flow.has_legacy_url]
    unfilled = [
        f"{name} has the placeholder of the template; replace it with your own." for name in placeholders(loaded)
    ]
    outdated = [
        f"flows.{name}.url is a legacy address (logic.azure.com), which ended on 30 November 2025; copy the flow's new "
        "URL from its trigger."
        for name in legacy
    ]
    without_organization = [
        f"queue '{queue.name}' has no Dataverse organization, so the worker refuses every request there for a flow "
        f"with a privilege ({', '.join(flows)}): 'privilege_missing'. Set its dataverse_url in request_queues, or "
        "dataverse.url, unless these flows are for other queues."
        for queue in loaded.request_queues
        if flows and queue.authority != "dataverse" and loaded.dataverse_url(queue) is None
    ]
    return [*unfilled, *outdated, *without_organization]


def health(
    config: Config = None,
    url: Annotated[
        str | None, typer.Option(help="Base URL of the health endpoint. Default: from the settings.")
    ] = None,
    env_file: EnvFile = None,
) -> None:
    """Query the readiness of a running worker; exit with 0 if it is ready, with 1 if not."""
    import httpx  # imported here: no other command needs an HTTP client

    if url is None:
        endpoint = _health_settings(config, env_file)
        if endpoint.port == 0:
            terminal.fail("health.port is 0, so the worker has no health endpoint. Set a port, or give --url.", 2)
        url = endpoint.url
    try:
        response = httpx.get(f"{url.rstrip('/')}/health/ready", timeout=5, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        terminal.fail(f"No worker answers at {url} ({type(error).__name__}).", 1)
    ready = _readiness(response.text)
    if ready is None:
        terminal.fail(
            f"The answer of {url} (HTTP status {response.status_code}) is not that of a worker. Is this the address of "
            "its health endpoint? See health.port, or give --url.",
            1,
        )
    terminal.echo(terminal.visible(response.text, multiline=True))
    raise typer.Exit(0 if response.status_code == 200 and ready else 1)


def _readiness(text: str) -> bool | None:
    """Return `ready` of a worker's answer; None if another program answered."""
    try:
        report = json.loads(text)
    except (ValueError, RecursionError):
        return None
    ready = report.get("ready") if isinstance(report, dict) and isinstance(report.get("queues"), dict) else None
    return ready if isinstance(ready, bool) else None


def _health_settings(config: Path | None, env_file: Path | None) -> HealthSettings:
    """Return the only section that the command needs: a probe may run without the worker's secrets."""
    from flow_worker.settings import HealthSettings, InvalidSettings, Layered, load_as

    class OnlyHealth(Layered):
        health: HealthSettings = HealthSettings()

    try:
        return load_as(OnlyHealth, config, env_file).health
    except InvalidSettings as error:
        terminal.fail_settings(error)


def _load(config: Path | None, env_file: Path | None) -> Settings:
    from flow_worker import settings
    from flow_worker.settings import InvalidSettings

    try:
        return settings.load(config, env_file)
    except InvalidSettings as error:
        terminal.fail_settings(error)
