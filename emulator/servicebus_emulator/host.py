"""The whole emulator in one process: starts the listeners, reports their addresses, stops on a signal."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import JsonValue

from servicebus_emulator.cloud import urls
from servicebus_emulator.cloud.definitions import HttpDefinition
from servicebus_emulator.cloud.web import Web, running_web
from servicebus_emulator.config import Config
from servicebus_emulator.control import Control
from servicebus_emulator.servicebus.access import AccessMode, Authorizer
from servicebus_emulator.servicebus.access.entra import DataRole, EntraTokenValidator, RoleAssignment
from servicebus_emulator.servicebus.clock import Clock, MovableClock
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.transport.addresses import AmqpAddresses, connection_string
from servicebus_emulator.transport.amqp_server import AmqpServer
from servicebus_emulator.transport.connection_rules import ConnectionRules
from servicebus_emulator.transport.tls import CertificateFiles, server_tls
from servicebus_emulator.transport.tls_context import ServerTls
from servicebus_emulator.transport.web_callers import WebCallers

if TYPE_CHECKING:
    from aiohttp.web import RouteDef

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_SIGNALS = ("SIGTERM", "SIGINT", "SIGBREAK")


class CannotListen(Exception):
    """A port or host is not available. The message names it and the option that changes it."""

    def __init__(self, host: str, port: int, option: str, error: OSError) -> None:
        if isinstance(error, socket.gaierror):
            super().__init__(f"Cannot listen on {host}:{port}: there is no address {host}; choose another with --host")
            return
        # Not `error.strerror`: asyncio repeats the address in it.
        reason = os.strerror(error.errno) if error.errno else str(error)
        super().__init__(f"Cannot listen on {host}:{port}: {reason}; choose another with {option}")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The addresses to listen on. Port 0 picks a free port; None turns a listener off."""

    host: str = "127.0.0.1"
    amqp_port: int = 5672
    http_port: int = 5380
    amqps_port: int | None = None
    ws_port: int | None = None
    wss_port: int | None = None
    certificates: CertificateFiles = field(default_factory=CertificateFiles)
    """The certificate of the TLS listeners."""
    admin_port: int | None = None
    admin_https_port: int | None = None
    callers: WebCallers = field(default_factory=WebCallers)
    """The callers of HTTP and WebSocket, beside those that address the loopback or `host`."""

    @property
    def uses_tls(self) -> bool:
        """True if a TLS listener is on."""
        return (self.amqps_port, self.wss_port, self.admin_https_port) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Emulator:
    """A running emulator."""

    connection_string: str
    web: Web
    broker: Broker
    amqp: AmqpServer
    addresses: AmqpAddresses
    admin_url: str | None = None
    admin_https_url: str | None = None

    def ready(self) -> dict[str, str | None]:
        """Return the fields of the ready line: all addresses and identifiers that a program needs."""
        return {
            "connection_string": self.connection_string,
            **self.addresses.ready(),
            "admin_url": self.admin_url,
            "admin_https_url": self.admin_https_url,
            "identity_endpoint": self.web.identity_endpoint,
            "identity_header": self.web.identity_header,
            "issuer": self.web.issuer,
            "audience": self.web.audience,
            "flows_url": self.web.flows_url,
            "dataverse_url": self.web.dataverse_url,
            "dataverse_organization": str(self.web.organization_id),
        }

    def announcement(self) -> dict[str, JsonValue]:
        """Return the fields of the ready line, and the names of the flows and queues."""
        queues = [queue.settings.name for queue in self.broker.entities()]
        return {**self.ready(), "flows": [*self.web.flows.names()], "queues": [*queues]}


@asynccontextmanager
async def running_emulator(
    config: Config,
    endpoints: Endpoints,
    *,
    data: Path | None = None,
    rules: ConnectionRules | None = None,
    access: AccessMode | None = None,
) -> AsyncIterator[Emulator]:
    """Run Service Bus and the web server until the block ends.

    `data`: a folder that keeps queues and messages after the process ends; None keeps nothing. `access` overrides the
    configuration. Raises `CannotListen` if a port is not available, and `DataFolderError` if the folder is not usable.
    Raises `CertificateError` if TLS has no certificate.
    """
    # The stack closes in reverse order: HTTP first, then AMQP, and the store last, because both write to it.
    running: list[Emulator] = []
    async with AsyncExitStack() as stack:
        clock = MovableClock()
        broker = stack.enter_context(_broker(config, data, clock))
        authorizer = Authorizer(
            config.policies, queue_policies=broker.policies, access=access or config.http.service_bus.access
        )
        amqp = AmqpServer(broker, rules=rules, authorizer=authorizer)
        with _explaining_errors(endpoints.host, endpoints.amqp_port, "--amqp-port"):
            amqp_port = await amqp.start(endpoints.host, endpoints.amqp_port)
        stack.push_async_callback(amqp.stop)
        tls = server_tls(endpoints.certificates, endpoints.host) if endpoints.uses_tls else None
        addresses = await _listen(amqp, endpoints, tls)
        with _explaining_errors(endpoints.host, endpoints.http_port, "--http-port"):
            web = await stack.enter_async_context(
                running_web(
                    config.http,
                    endpoints.host,
                    endpoints.http_port,
                    queue_counts=broker.counts,
                    enqueue=partial(_send, broker),
                    routes=partial(_control_routes, Control(broker, amqp, clock), running),
                    callers=endpoints.callers,
                )
            )
        authorizer.jwt_validator = _entra_tokens(config.http, web)
        emulator = Emulator(
            connection_string(endpoints.host, amqp_port),
            web,
            broker,
            amqp,
            addresses,
            *await _administration(stack, broker, authorizer, endpoints, tls),
        )
        running.append(emulator)
        yield emulator


def _control_routes(control: Control, running: Sequence[Emulator]) -> Sequence[RouteDef]:
    from servicebus_emulator.control_api import routes  # imported here because it needs aiohttp, see `cloud.web`

    return routes(control, lambda: running[0].announcement() if running else None)


async def _administration(
    stack: AsyncExitStack, broker: Broker, authorizer: Authorizer, endpoints: Endpoints, tls: ServerTls | None
) -> tuple[str | None, str | None]:
    """Start administration and REST if they are on; return their URLs over HTTP and HTTPS."""
    if endpoints.admin_port is None and endpoints.admin_https_port is None:
        return None, None
    # Imported here because aiohttp is large and most starts do not use administration.
    from servicebus_emulator.admin.server import AdminServer

    host, admin = endpoints.host, AdminServer(broker, authorizer=authorizer, callers=endpoints.callers)
    stack.push_async_callback(admin.stop)
    start_tls = partial(admin.start, tls=tls.context if tls else None)
    return (
        await _start_if_on(host, endpoints.admin_port, "--admin-port", admin.start),
        await _start_if_on(host, endpoints.admin_https_port, "--admin-https-port", start_tls),
    )


def _send(broker: Broker, queue: str, message: BrokeredMessage) -> None:
    """Send a message to a queue, and persist it before the caller continues, as for any other sender."""
    broker.find(queue).send([message])
    broker.storage.flush()


def _entra_tokens(definition: HttpDefinition, web: Web) -> EntraTokenValidator:
    """Return the validator of the tenant's tokens, with the role assignments of the configuration."""
    identity, configured = definition.identity, definition.service_bus.role_assignments
    assignments = [RoleAssignment(identity.managed_identity.object_id, DataRole.OWNER)]
    if configured is not None:
        assignments = [RoleAssignment(entry.object_id, entry.role, entry.queue or "") for entry in configured]
    tenant = identity.tenant_id
    issuers = (urls.issuer_v1(web.url, tenant), urls.issuer_v2(web.url, tenant))
    return EntraTokenValidator(web.verify, issuers, assignments)


async def _listen(amqp: AmqpServer, endpoints: Endpoints, tls: ServerTls | None) -> AmqpAddresses:
    """Start the AMQP listeners that are on, beside plain TCP; return their addresses."""
    host, context = endpoints.host, tls.context if tls else None
    start_websocket = partial(amqp.start_websocket, callers=endpoints.callers)
    return AmqpAddresses(
        host,
        await _start_if_on(host, endpoints.amqps_port, "--amqps-port", partial(amqp.start, tls=context)),
        await _start_if_on(host, endpoints.ws_port, "--ws-port", start_websocket),
        await _start_if_on(host, endpoints.wss_port, "--wss-port", partial(start_websocket, tls=context)),
        tls.ca_certificate if tls else None,
    )


async def _start_if_on(
    host: str, port: int | None, option: str, start: Callable[[str, int], Awaitable[_T]]
) -> _T | None:
    """Start a listener on a port; return what `start` returns, or None without a port."""
    if port is None:
        return None
    with _explaining_errors(host, port, option):
        return await start(host, port)


@contextmanager
def _broker(config: Config, data: Path | None, clock: Clock) -> Iterator[Broker]:
    if data is None:
        yield Broker(config.queues, clock=clock)
        return
    from servicebus_emulator.servicebus.storage.sqlite import SqliteMessageStorage

    with closing(SqliteMessageStorage(data)) as store:
        broker = Broker((), storage=store, clock=clock)
        store.restore(broker, config.queues)
        yield broker


@contextmanager
def _explaining_errors(host: str, port: int, option: str) -> Iterator[None]:
    """Turn an `OSError` into `CannotListen`, which names the port and its option."""
    try:
        yield
    except OSError as error:
        raise CannotListen(host, port, option, error) from error


async def serve_until_stopped(
    config: Config,
    endpoints: Endpoints,
    *,
    ready: Callable[[str], None],
    data: Path | None = None,
    rules: ConnectionRules | None = None,
    access: AccessMode | None = None,
) -> None:
    """Run the emulator until a signal. `ready` gets a line of JSON once it listens. See `running_emulator`."""
    stop = asyncio.Event()
    with _on_stop_signal(stop.set):
        async with running_emulator(config, endpoints, data=data, rules=rules, access=access) as emulator:
            ready(json.dumps(emulator.ready()))
            _log.info(
                "The emulator serves the queues %s.",
                ", ".join(queue.settings.name for queue in emulator.broker.entities()),
            )
            await stop.wait()
            _log.info("The emulator stops.")


@contextmanager
def _on_stop_signal(call: Callable[[], object]) -> Iterator[None]:
    """Call `call` on a stop signal.

    These are plain signal handlers, because event loops on Windows have no `add_signal_handler`.
    """
    loop = asyncio.get_running_loop()
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(call)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
