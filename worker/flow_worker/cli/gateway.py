"""`flow-worker gateway`: serves the HTTP API."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import typer

from flow_worker.cli import terminal
from flow_worker.cli.terminal import Config, EnvFile
from flow_worker.cli.worker import Format, Level

if TYPE_CHECKING:
    from flow_worker.settings.gateway_process import GatewayProcess

_log = logging.getLogger(__name__)


def gateway(
    config: Config = None, env_file: EnvFile = None, log_level: Level = None, log_format: Format = None
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C: start flows with POST, read results with GET.

    docs/how-to/deploy-the-gateway.md has the settings, TLS, containers, replicas and keys.
    """
    # Imported here: `send` and `result` would otherwise import all of the gateway.
    import asyncio

    from flow_worker.gateway import app
    from flow_worker.runtime.stop_deadline import StopDeadline
    from flow_worker.settings import InvalidSettings
    from flow_worker.settings.gateway_process import load_gateway
    from flow_worker.settings.gateway_queue import request_queues, unserved
    from flow_worker.telemetry import logs
    from flow_worker.telemetry.uncaught import log_uncaught

    try:
        loaded = load_gateway(config, env_file)
        warning = unserved(loaded.gateway, request_queues(config, env_file))
    except InvalidSettings as error:
        terminal.fail_settings(error)
    changes = {"level": log_level and log_level.value, "format": log_format and log_format.value}
    log = loaded.log.model_copy(update={name: value for name, value in changes.items() if value is not None})
    loaded = loaded.model_copy(update={"log": log})
    logs.configure(loaded.log.level, loaded.log.format, logs.GATEWAY)
    log_uncaught()
    _say_start(loaded)
    if warning is not None:
        logs.log(_log, logging.WARNING, "gateway.unserved", warning)
    deadline = StopDeadline(loaded.stop_seconds)
    try:
        asyncio.run(app.run(loaded, deadline.start))
    except InvalidSettings as error:  # the start checks the store and the keys as well
        terminal.fail_settings(error)
    except OSError as error:  # mostly `CannotListen`, which names the port and its setting
        terminal.fail(str(error), 1)
    except Exception:  # noqa: BLE001 - Python would print the error's text, which may quote a request
        logs.log(_log, logging.CRITICAL, "gateway.failed", "The gateway ends with an internal error.")
        raise typer.Exit(1) from None
    finally:
        deadline.cancel()


def _say_start(loaded: GatewayProcess) -> None:
    """Say what starts: a few lines for people, or one line of the log if that is for programs."""
    from flow_worker.cli import banner
    from flow_worker.telemetry import logs

    if loaded.log.format == "text":
        terminal.echo(banner.gateway_banner(loaded), to_stderr=True)
    else:
        fields = banner.gateway_summary(loaded)
        logs.log(_log, logging.INFO, "gateway.starting", "The gateway starts.", **fields)
