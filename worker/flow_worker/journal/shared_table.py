"""A table of Azure Table Storage that processes on any number of machines share: its client, errors and deadlines."""

from __future__ import annotations

import asyncio
import email.utils
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import aiohttp
from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError
from azure.core.pipeline import PipelineResponse
from azure.data.tables import TableEntity
from azure.data.tables.aio import TableClient
from azure.identity.aio import ManagedIdentityCredential

from flow_contracts.servicebus.http_transport import EnvironmentProxyTransport
from flow_worker import clock
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.settings import InvalidSettings, JournalSettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

PART_BYTES = 60 * 1024
"""Of a binary property, which holds at most 64 KiB (Microsoft Learn, "Understanding the Table service data model")."""
MAX_PARTS = 12
"""720 KiB, which stay below 1 MiB in base64. Beyond that, aiohttp warns that the body holds up the event loop."""
_AUDIENCES = {
    ".usgovcloudapi.net": "https://storage.azure.us",
    ".chinacloudapi.cn": "https://storage.azure.cn",
}
"""Token audiences of the sovereign clouds, by the suffix of the host. Other hosts use the SDK's default."""

# Wider than the SDK's own errors. The SDK parses a proxy's error page as if the service had sent it. The credential
# raises KeyError or AttributeError if the identity endpoint's JSON lacks a field.
_SDK_ERRORS = (AzureError, aiohttp.ClientError, OSError, ValueError, KeyError, AttributeError)


@dataclass(frozen=True, slots=True)
class TableKind:
    """One kind of table, by the words for it in errors and log lines."""

    name: str
    """For example "journal's table"."""
    process: str
    """The process that uses the table."""
    settings: str
    """The prefix of the settings that name the table."""
    code: str
    """The code of its `TemporarilyUnavailable`."""
    unreachable_event: str


class ServiceClock:
    """The time of the service, which all processes share, by the dates of its answers. It is right to about a second.

    A process' own clock may be wrong by any time.
    """

    def __init__(self, *, own: Callable[[], datetime] = clock.now) -> None:
        self._own = own
        self._offset = timedelta()

    def now(self) -> datetime:
        """Return the time; before the first answer, that of this machine."""
        return self._own() + self._offset

    def learn(self, response: PipelineResponse[Any, Any]) -> None:
        """Learn from an answer. Its date has no fraction: the half of a second is the best guess."""
        try:
            date = email.utils.parsedate_to_datetime(response.http_response.headers["Date"])
            self._offset = date + timedelta(seconds=0.5) - self._own()
        except (KeyError, ValueError, TypeError, OverflowError):
            return  # a proxy's answer


class SharedTable:
    """A client of one table, which creates the table if it is missing."""

    def __init__(
        self, client: TableClient, kind: TableKind, service_clock: ServiceClock, *, call_seconds: float
    ) -> None:
        self.client = client
        self.clock = service_clock
        self._kind = kind
        self._call_seconds = call_seconds
        self._table_exists = False
        self._resources = AsyncExitStack()

    @classmethod
    async def by_identity(
        cls, endpoint: str, table: str, kind: TableKind, *, client_id: str | None, call_seconds: float
    ) -> Self:
        """Open the table with the managed identity. Raises `InvalidSettings` if the endpoint is not https."""
        if urlsplit(endpoint).scheme != "https":
            raise InvalidSettings(
                f"{kind.settings}table_endpoint is not https; copy it from the storage account's endpoints"
            )
        credential = ManagedIdentityCredential(
            client_id=client_id, transport=EnvironmentProxyTransport(keep_alive=False)
        )
        host = (urlsplit(endpoint).hostname or "").lower()
        audience = next((audience for suffix, audience in _AUDIENCES.items() if host.endswith(suffix)), None)
        service_clock = ServiceClock()
        options = _transport_options(call_seconds, service_clock)
        client = TableClient(endpoint, table, credential=credential, audience=audience, **options)
        return await cls(client, kind, service_clock, call_seconds=call_seconds)._open(credential)

    @classmethod
    async def by_connection_string(
        cls, connection_string: str, table: str, kind: TableKind, *, call_seconds: float
    ) -> Self:
        """Open the table with an account key or a shared access signature. Raises `InvalidSettings`."""
        service_clock = ServiceClock()
        options = _transport_options(call_seconds, service_clock)
        try:
            client = TableClient.from_connection_string(connection_string, table, **options)
        except ValueError as error:  # its text names the missing part, and quotes no value
            raise InvalidSettings(
                f"{kind.settings}table_connection_string: {error}; copy it from the access keys"
            ) from None
        return await cls(client, kind, service_clock, call_seconds=call_seconds)._open()

    async def _open(self, credential: ManagedIdentityCredential | None = None) -> Self:
        """Create the table if it is missing. The process also starts if the service is unreachable now."""
        if credential is not None:
            self._resources.push_async_callback(credential.close)
        self._resources.push_async_callback(self.client.close)
        kind = self._kind
        try:
            async with asyncio.timeout(self._call_seconds):
                await self.ensure_exists()
        except (TemporarilyUnavailable, TimeoutError) as error:
            reason = str(error) or f"no answer within {self._call_seconds:g} s"
            message = f"The {kind.process} cannot reach the {kind.name} yet: {reason}"
            log(_log, logging.WARNING, kind.unreachable_event, message)
        except BaseException:
            await self.close()
            raise
        return self

    async def ensure_exists(self) -> None:
        """Create the table unless this process has found it before. Raises `TemporarilyUnavailable`."""
        if self._table_exists:
            return
        with self.errors_translated():
            try:
                await self.client.create_table()
            except ResourceExistsError:
                pass
            except HttpResponseError as error:
                if error.status_code != 403:  # without the right to create tables, the process may use an existing one
                    raise
        self._table_exists = True

    def raise_if_table_is_missing(self, error: HttpResponseError) -> None:
        """Raise the error if the whole table is missing. The SDK raises the same type for a missing entity."""
        if error_code(error) == "TableNotFound":
            self._table_exists = False
            raise error

    async def within_deadline(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return the result of one call. Raises `TimeoutError`, an `OSError`, after the deadline."""
        async with asyncio.timeout(self._call_seconds):
            return await work()

    async def pages(self, **query: Any) -> AsyncIterator[list[TableEntity]]:
        """Yield the entities of a query by pages, each within the deadline.

        A page may be empty, as the service scans a limited number of rows for one.
        """
        pages = self.client.query_entities(**query).by_page()
        while True:
            try:
                page = await self.within_deadline(pages.__anext__)
            except StopAsyncIteration:
                return
            yield [entity async for entity in page]

    @contextmanager
    def errors_translated(self) -> Iterator[None]:
        """Translate errors to `TemporarilyUnavailable` with their codes only: error texts may hold signed URLs."""
        try:
            yield
        except _SDK_ERRORS as error:
            status = f" {error.status_code}" if isinstance(error, HttpResponseError) and error.status_code else ""
            cause = f"{type(error).__name__}{status} {error_code(error) or ''}".strip()
            sentence = f"the {self._kind.name} is unavailable ({cause})"
            raise TemporarilyUnavailable(self._kind.code, sentence) from error

    async def close(self) -> None:
        """Close the client and its credential."""
        await self._resources.aclose()


class StoreInTable:
    """A store of the worker in a table of its own, in the storage account of the journal."""

    kind: ClassVar[TableKind]

    def __init__(self, table: SharedTable) -> None:
        self._table = table
        self._client = table.client

    @classmethod
    async def open(cls, journal: JournalSettings, table: str, client_id: str | None) -> Self:
        """Open the table as the journal's settings say: with a secret, else with the managed identity.

        Raises `InvalidSettings`; see `SharedTable`.
        """
        if journal.table_connection_string is not None:
            secret = journal.table_connection_string.get_secret_value()
            return await cls.by_connection_string(secret, table, call_seconds=journal.deadline_seconds)
        endpoint, seconds = journal.table_endpoint or "", journal.deadline_seconds
        return cls(await SharedTable.by_identity(endpoint, table, cls.kind, client_id=client_id, call_seconds=seconds))

    @classmethod
    async def by_connection_string(cls, connection_string: str, table: str, *, call_seconds: float) -> Self:
        """Open the table with a key or a signature; see `SharedTable.by_connection_string`."""
        opened = SharedTable.by_connection_string(connection_string, table, cls.kind, call_seconds=call_seconds)
        return cls(await opened)


def _transport_options(call_seconds: float, service_clock: ServiceClock) -> dict[str, Any]:
    """Turn off the SDK's retries: a retry could find the first attempt's write and report another process' change."""
    return {
        "retry_total": 0,
        "connection_timeout": call_seconds,
        "read_timeout": call_seconds,
        "raw_response_hook": service_clock.learn,
    }


def error_code(error: Exception) -> str | None:
    """Return the service's error code from wherever the SDK keeps it."""
    code = getattr(error, "error_code", None)
    if code is None:
        headers = getattr(getattr(error, "response", None), "headers", {})
        code = headers.get("x-ms-error-code")
    return None if code is None else str(getattr(code, "value", code))


def is_too_large(error: HttpResponseError) -> bool:
    """Return whether the service refused an entity or a body because of its size."""
    return error.status_code == 413 or (error_code(error) or "").endswith("TooLarge")
