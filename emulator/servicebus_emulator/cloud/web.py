"""The web server of all HTTP services: it binds its port at once and builds its services for the first caller.

`cloud.site` answers. With its imports it needs as much memory and start-up time as the Service Bus emulator, and many
users only need queues. So the first caller triggers the import and waits 0.25 s for it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING
from uuid import UUID

from servicebus_emulator.cloud import urls
from servicebus_emulator.cloud.definitions import HttpDefinition
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.errors import NOT_FOUND, ServiceBusError
from servicebus_emulator.transport.web_callers import WebCallers

if TYPE_CHECKING:
    from aiohttp.web import RouteDef

    from servicebus_emulator.cloud.dataverse.custom_apis import Enqueue
    from servicebus_emulator.cloud.dataverse.web_api import DataverseHost
    from servicebus_emulator.cloud.entra.issuer import Issuer
    from servicebus_emulator.cloud.entra.managed_identity import IdentityEndpoint
    from servicebus_emulator.cloud.flows.host import FlowHost
    from servicebus_emulator.cloud.site import QueueCounts, Site

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Web:
    """A running web server: its addresses, and its services for tests in the same process."""

    url: str
    identity_header: str = field(repr=False)
    tenant_id: UUID
    audience: str
    """The worker's audience, which senders' tokens are for."""
    organization_id: UUID
    """The Dataverse organization's ID at the start of the server."""
    site: Callable[[], Site] = field(repr=False)
    """Returns the site; the first call builds it."""

    @property
    def identity_endpoint(self) -> str:
        """The URL of the managed-identity endpoint."""
        return f"{self.url}/msi/token"

    @property
    def issuer(self) -> str:
        """The issuer of the tenant's version 2 tokens."""
        return urls.issuer_v2(self.url, self.tenant_id)

    @property
    def flows_url(self) -> str:
        """The common prefix of the flows' URLs."""
        return f"{self.url}{urls.FLOWS_PATH}"

    @property
    def dataverse_url(self) -> str:
        """The organization's URL, without a trailing slash; it is also the audience of its tokens."""
        return f"{self.url}{urls.DATAVERSE_PATH}"

    @property
    def flows(self) -> FlowHost:
        """The host of the flows."""
        return self.site().flows

    @property
    def dataverse(self) -> DataverseHost:
        """The host of the Dataverse organization."""
        return self.site().dataverse

    @property
    def identity(self) -> IdentityEndpoint:
        """The managed-identity endpoint."""
        return self.site().identity

    @property
    def tokens(self) -> Issuer:
        """The issuer of all tokens."""
        return self.site().issuer

    def flow_url(self, name: str) -> str:
        """Return the URL that starts a flow."""
        return f"{self.flows_url}/{name}/triggers/manual/paths/invoke?api-version=1"

    def verify(self, token: str) -> Mapping[str, object]:
        """Return the claims of a token that this server's issuer signed. Raise `InvalidToken` for any other token."""
        return self.tokens.verify(token)

    def environment(self) -> dict[str, str]:
        """Return the environment variables through which azure-identity finds the managed-identity endpoint."""
        return {"IDENTITY_ENDPOINT": self.identity_endpoint, "IDENTITY_HEADER": self.identity_header}


@asynccontextmanager
async def running_web(
    definition: HttpDefinition,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    queue_counts: Callable[[], QueueCounts] = dict,
    enqueue: Enqueue | None = None,
    routes: Callable[[], Sequence[RouteDef]] = list,
    callers: WebCallers | None = None,
) -> AsyncIterator[Web]:
    """Serve until the block ends; port 0 picks a free port. Raise `OSError` if the port is not available.

    `queue_counts` returns the answer of `GET /emulator/queues`: each queue's messages by state. `enqueue` takes
    Dataverse's messages; without it no queue exists for them. `routes` returns further routes to serve. `callers` are
    allowed beside those that address the loopback or `host`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listener:
        url_host = f"[{host}]" if family == socket.AF_INET6 else host
        url = f"http://{url_host}:{listener.getsockname()[1]}"
        identity = definition.identity
        header = identity.identity_header or secrets.token_hex(16)

        @cache
        def site() -> Site:
            from servicebus_emulator.cloud.site import Site  # see the module's docstring

            return Site(
                url,
                definition,
                header,
                queue_counts=queue_counts,
                enqueue=enqueue or _refuse_message,
                routes=routes(),
                callers=(callers or WebCallers()).with_host(host),
            )

        answering = asyncio.create_task(_answer(listener, site))
        try:
            yield Web(
                url, header, identity.tenant_id, identity.worker_audience, definition.dataverse.organization_id, site
            )
        finally:
            answering.cancel()
            with suppress(asyncio.CancelledError):
                await answering


async def _answer(listener: socket.socket, site: Callable[[], Site]) -> None:
    """Accept the first caller, build the site for it, and let the site serve all callers until cancelled."""
    listener.setblocking(False)
    first: socket.socket | None = None
    # The caller may have disconnected, or the process has too many open files. The site's own server handles both.
    with suppress(OSError):
        first, _ = await asyncio.get_running_loop().sock_accept(listener)
    try:
        await site().serve(listener, first)
    except Exception:
        _log.exception("The emulator cannot serve its HTTP services.")
        listener.close()  # so that the kernel refuses callers instead of letting them wait
        if first is not None:
            first.close()
        raise


def _refuse_message(queue: str, _: BrokeredMessage) -> None:
    raise ServiceBusError(NOT_FOUND, f"The queue '{queue}' does not exist: this server runs without a broker.")
