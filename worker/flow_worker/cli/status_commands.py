"""Carries out `flow-worker status`: asks a running worker and the broker, and prints what they say."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import httpx
import typer
from pydantic import JsonValue
from rich.console import Console
from rich.live import Live
from rich.text import Text

from flow_contracts.servicebus import ServiceBusFailure
from flow_worker.cli import status_render, terminal
from flow_worker.cli.banner import health_base_url
from flow_worker.cli.status_gateway import gateway_report
from flow_worker.cli.status_render import StatusReport
from flow_worker.cli.terminal import plain
from flow_worker.doctor.hosts import NO_ADMINISTRATION, has_administration
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import (
    ContinuationSettings,
    GatewaySettings,
    HealthSettings,
    IdentitySettings,
    InvalidSettings,
    Layered,
    ReplySettings,
    RequestQueue,
    ServiceBusSettings,
    load_as,
)

_WORKER_SECONDS = 5.0


class StatusSettings(Layered):
    """The part of the worker's settings that locates it and its queues. Without a broker the depths are unknown."""

    servicebus: ServiceBusSettings | None = None
    request_queues: tuple[RequestQueue, ...] = (RequestQueue(name="flow-requests"),)
    continuations: ContinuationSettings = ContinuationSettings()
    replies: ReplySettings = ReplySettings()
    identity: IdentitySettings = IdentitySettings()
    health: HealthSettings = HealthSettings()
    gateway: GatewaySettings = GatewaySettings()

    @property
    def has_gateway(self) -> bool:
        """Whether the settings are also those of a gateway with a health endpoint."""
        return "gateway" in self.model_fields_set and self.gateway.health_port != 0

    @property
    def queues(self) -> list[str]:
        """The names of all queues that the worker receives from or publishes to."""
        gateways = (queue.reply_to for queue in self.request_queues if queue.authority == "gateway" and queue.reply_to)
        names = (*(queue.name for queue in self.request_queues), self.continuations.queue, *self.replies.queues)
        return list(dict.fromkeys([*names, *gateways]))


def status(
    config: Path | None, env_file: Path | None, *, url: str | None, watch_every: float | None, as_json: bool
) -> None:
    """Print the status, with `watch_every` again and again; exit with status 1 if no worker answers."""
    try:
        settings = load_as(StatusSettings, config, env_file)
    except InvalidSettings as error:
        terminal.fail_settings(error)
    base = (url or health_base_url(settings.health) or "").rstrip("/")
    if not base:
        terminal.fail("The worker has no health endpoint (health.port = 0), so it has no status. Set health.port.", 2)
    # The SDK logs a traceback for each failure, which the report names in a few words.
    logging.getLogger("azure").addHandler(logging.NullHandler())
    if watch_every is not None:
        try:
            _watch(settings, base, watch_every, as_json=as_json)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None
    with _asking(base, as_json=as_json):
        report = _read(settings, base)
    _print(report, as_json=as_json)
    raise typer.Exit(0 if report.worker is not None else 1)


def _watch(settings: StatusSettings, base: str, every: float, *, as_json: bool) -> NoReturn:
    """Print until Ctrl-C: on a terminal always in the same place, and at once."""
    console = terminal.out()
    if as_json or not console.is_terminal:
        while True:
            _print(_read(settings, base), as_json=as_json)
            time.sleep(every)
    with Live(_question(base), console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            report = _read(settings, base)
            live.update(status_render.render(report, console, max_lines=console.height), refresh=True)
            time.sleep(every)


def _asking(base: str, *, as_json: bool) -> AbstractContextManager[object]:
    """Say on a terminal what the command waits for, until the block ends."""
    console = terminal.out()
    return nullcontext() if as_json or not console.is_terminal else console.status(_question(base), spinner="line")


def _question(base: str) -> Text:
    return plain(f"Asking the worker at {base}, and Service Bus for the depths of the queues. Ctrl-C ends this.")


def _print(report: StatusReport, *, as_json: bool) -> None:
    if as_json:
        terminal.echo(terminal.json_text(report.as_json()))
    else:
        _print_text(terminal.out(), report)


def _print_text(console: Console, report: StatusReport) -> None:
    console.print(status_render.render(report, console))


def _read(settings: StatusSettings, base: str) -> StatusReport:
    worker, fault = _worker(base)
    gateway = gateway_report(settings.gateway) if settings.has_gateway else None
    return StatusReport(base, worker, fault, asyncio.run(_depths(settings)), gateway)


def _worker(base: str) -> tuple[Mapping[str, JsonValue] | None, str | None]:
    try:
        response = httpx.get(f"{base}/status", timeout=_WORKER_SECONDS, trust_env=False)
        document = response.json() if response.status_code in (200, 404) else None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return None, f"no worker answers ({type(error).__name__}). Is it running, and is this its address?"
    except ValueError:
        document = None
        if response.status_code == 200:
            return None, "the answer is not the status of a worker. Is this the address of its health endpoint?"
    if isinstance(document, dict) and "flows" in document:
        return document, None
    if isinstance(document, dict) and document.get("program") == "gateway":
        return None, "this is the health endpoint of a gateway, which has no status. Give the address of a worker."
    faults = {
        403: "the worker answers only on its own machine: run the command there, or set health.status = 'all'",
        404: "there is no status here: health.status is 'off', or this is not a worker of this version",
        503: "the worker is starting",
    }
    return None, faults.get(response.status_code, f"the answer has the HTTP status {response.status_code}")


async def _depths(settings: StatusSettings) -> dict[str, dict[str, JsonValue]]:
    queues = settings.queues
    if settings.servicebus is None:
        return {queue: {"unknown": "the settings name no broker"} for queue in queues}
    if not has_administration(settings.servicebus):
        return {queue: {"unknown": NO_ADMINISTRATION} for queue in queues}
    try:
        async with open_service_bus(settings.servicebus, client_id=settings.identity.client_id) as bus:
            depths = await bus.depths(queues, settings.servicebus.administration_url)
    except (ServiceBusFailure, ValueError) as error:
        return {queue: {"unknown": type(error).__name__} for queue in queues}
    return {queue: asdict(depth) for queue, depth in depths.items()}
