"""One web server for all that is HTTP: its port is bound and its addresses known at once, the rest comes when called.

What answers is `emulator.site`. With the libraries it stands on it takes as much memory as the Service Bus, and as long
to start, and many a user only has queues: so it is imported for the first caller, and all wait a quarter of a second.
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
from servicebus_emulator.servicebus.entities.message import Message
from servicebus_emulator.servicebus.errors import NOT_FOUND, ServiceBusError

if TYPE_CHECKING:
    from aiohttp.web import RouteDef

    from servicebus_emulator.cloud.dataverse.web_api import DataverseHost
    from servicebus_emulator.cloud.entra.issuer import Issuer
    from servicebus_emulator.cloud.entra.managed_identity import IdentityEndpoint
    from servicebus_emulator.cloud.flows.host import FlowHost
    from servicebus_emulator.cloud.site import Enqueue, QueueCounts, Site

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Web:
    """A running server: its addresses, and its parts for tests in the same process."""

    url: str
    identity_header: str = field(repr=False)
    tenant_id: UUID
    audience: str
    """The worker's own: what a sender's token must be for."""
    organization_id: UUID
    """Dataverse's, as the server was started."""
    site: Callable[[], Site] = field(repr=False)
    """The one site; it is built when it is first asked for."""

    @property
    def identity_endpoint(self) -> str:
        """Where the managed identity's tokens are."""
        return f"{self.url}/msi/token"

    @property
    def issuer(self) -> str:
        """The tenant's, of version 2 tokens."""
        return urls.issuer_v2(self.url, self.tenant_id)

    @property
    def flows_url(self) -> str:
        """What the URLs of flows begin with."""
        return f"{self.url}{urls.FLOWS}"

    @property
    def dataverse_url(self) -> str:
        """The organization's, without a slash; its tokens' audience, too."""
        return f"{self.url}{urls.DATAVERSE}"

    @property
    def flows(self) -> FlowHost:
        """Who runs the flows."""
        return self.site().flows

    @property
    def dataverse(self) -> DataverseHost:
        """Who answers for the organization."""
        return self.site().dataverse

    @property
    def identity(self) -> IdentityEndpoint:
        """Who gives out the managed identity's tokens."""
        return self.site().identity

    @property
    def tokens(self) -> Issuer:
        """Who signs all tokens."""
        return self.site().issuer

    def flow_url(self, name: str) -> str:
        """The URL that starts a flow."""
        return f"{self.flows_url}/{name}/triggers/manual/paths/invoke?api-version=1"

    def verify(self, token: str) -> Mapping[str, object]:
        """The claims of a token of ours. Raises `InvalidToken`."""
        return self.tokens.verify(token)

    def environment(self) -> dict[str, str]:
        """The variables by which azure-identity finds the managed-identity endpoint."""
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
) -> AsyncIterator[Web]:
    """Serve until the block ends; port 0 picks a free one. Raises `OSError` if the port cannot be had.

    `queue_counts` is what `GET /emulator/queues` answers: each queue's messages by state. `enqueue` takes the messages
    of Dataverse; without it there is no queue for them. `routes` are answered, too.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listener:
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        identity = definition.identity
        header = identity.identity_header or secrets.token_hex(16)

        @cache
        def site() -> Site:
            from servicebus_emulator.cloud.site import Site  # see the module's docstring

            return Site(
                url, definition, header, queue_counts=queue_counts, enqueue=enqueue or _no_queue, routes=routes()
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
    """Wait for the first caller, build the site for it, and leave all callers to the site; until cancelled."""
    listener.setblocking(False)
    first: socket.socket | None = None
    # It may be gone again, or there are too many open files: the site's server knows what to do then.
    with suppress(OSError):
        first, _ = await asyncio.get_running_loop().sock_accept(listener)
    try:
        await site().serve(listener, first)
    except Exception:
        _log.exception("The HTTP side cannot be served.")
        listener.close()  # callers are refused, rather than kept waiting
        if first is not None:
            first.close()
        raise


def _no_queue(queue: str, _: Message) -> None:
    raise ServiceBusError(NOT_FOUND, f"There is no broker here, and so no queue '{queue}'.")
