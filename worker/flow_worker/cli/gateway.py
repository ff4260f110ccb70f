"""`flow-worker gateway`: serves the HTTP API."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flow_worker.cli import terminal
from flow_worker.cli.process import Format, Level, run_until_stopped, with_log
from flow_worker.cli.terminal import Config, EnvFile

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
    from functools import partial

    from flow_worker.gateway import app
    from flow_worker.settings import InvalidSettings
    from flow_worker.settings.gateway_process import load_gateway
    from flow_worker.settings.gateway_queue import request_queues, unserved
    from flow_worker.telemetry import logs
    from flow_worker.telemetry.uncaught import log_uncaught

    try:
        loaded = with_log(load_gateway(config, env_file), log_level, log_format)
        warning = unserved(loaded.gateway, request_queues(config, env_file))
    except InvalidSettings as error:
        terminal.fail_settings(error)
    logs.configure(loaded.log.level, loaded.log.format, logs.GATEWAY)
    log_uncaught()
    _say_start(loaded)
    if warning is not None:
        logs.log(_log, logging.WARNING, "gateway.unserved", warning)
    log_failure = partial(
        logs.log, _log, logging.CRITICAL, "gateway.failed", "The gateway ends with an internal error."
    )
    run_until_stopped(partial(app.run, loaded), loaded.stop_seconds, log_failure)


def _say_start(loaded: GatewayProcess) -> None:
    """Say what starts: a few lines for people, or one line of the log if that is for programs."""
    from flow_worker.cli import banner
    from flow_worker.telemetry import logs

    if loaded.log.format == "text":
        terminal.echo(banner.gateway_banner(loaded), to_stderr=True)
    else:
        fields = banner.gateway_summary(loaded)
        logs.log(_log, logging.INFO, "gateway.starting", "The gateway starts.", **fields)
