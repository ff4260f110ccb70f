"""Creates the SDK's client from the endpoint, the proof of identity and one TLS context."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any, assert_never

import certifi
from azure.servicebus.aio import ServiceBusClient

from flow_contracts.servicebus.credentials import AsyncCredential
from flow_contracts.servicebus.tolerant_transport import use_tolerant_transport


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """A namespace and the shared access key that proves the caller's identity."""

    text: str = field(repr=False)
    """Kept out of the representation: it holds the key."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace and the Entra credential that proves the caller's identity."""

    host: str
    """Fully qualified: `contoso.servicebus.windows.net`."""
    credential: AsyncCredential
    """The caller closes it."""


Endpoint = ConnectionString | Namespace


def connect(endpoint: Endpoint, *, sdk_retries: int) -> ServiceBusClient:
    """Create the client; it connects when a link opens. Raises `ValueError` for a malformed connection string.

    `sdk_retries` is small, because the SDK retries on the same connection and in silence. The callers retry on new
    connections and log each retry.

    One TLS context serves all connections. Otherwise the SDK loads the trusted certificates for each connection. That
    takes about 20 ms of processor time, during which every lane waits.
    """
    options: dict[str, Any] = {  # the SDK declares its keyword arguments as Any
        "retry_total": sdk_retries,
        "retry_backoff_factor": 0.2,
        "ssl_context": ssl.create_default_context(cafile=certifi.where()),
    }
    match endpoint:
        case ConnectionString(text):
            client = ServiceBusClient.from_connection_string(text, **options)
        case Namespace(host, credential):
            client = ServiceBusClient(host, credential, **options)
        case _:
            assert_never(endpoint)
    use_tolerant_transport(client)
    return client
