"""Creates the SDK's client from the endpoint, the proof of identity and one TLS context."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any, assert_never

import certifi
from azure.servicebus import TransportType
from azure.servicebus.aio import ServiceBusClient

from flow_contracts.connection_string import Transport, check_namespace, check_transport, parse_connection_string
from flow_contracts.proxies import Proxies
from flow_contracts.servicebus.credentials import AsyncCredential, require_asynchronous
from flow_contracts.servicebus.tolerant_transport import use_tolerant_transport


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """A namespace and the shared access key that proves the caller's identity."""

    text: str = field(repr=False)
    """Kept out of the representation: it holds the key."""
    transport: Transport | None = None
    """None for what `TransportType` in the text says, else `amqp`."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace and the Entra credential that proves the caller's identity."""

    host: str
    """Fully qualified: `contoso.servicebus.windows.net`."""
    credential: AsyncCredential
    """The caller closes it."""
    transport: Transport | None = None
    """None for `amqp`."""


Endpoint = ConnectionString | Namespace


def connect(endpoint: Endpoint, *, sdk_retries: int) -> ServiceBusClient:
    """Create the client; it connects when a link opens. Raises `ValueError` for an endpoint that cannot be used.

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
    check_transport(endpoint.transport)
    match endpoint:
        case ConnectionString(text, transport):
            parts = parse_connection_string(text)
            if require_agreement(transport, parts.transport) == "websocket":
                options |= _over_websocket(parts.host, parts.port, is_tls=not parts.is_emulator)
            client = ServiceBusClient.from_connection_string(parts.text, **options)
        case Namespace(host, credential, transport):
            check_namespace(host)
            require_asynchronous(credential)
            if transport == "websocket":
                options |= _over_websocket(host, None, is_tls=True)
            client = ServiceBusClient(host, credential, **options)
        case _:
            assert_never(endpoint)
    use_tolerant_transport(client)
    return client


def require_agreement(chosen: Transport | None, named: Transport | None) -> Transport:
    """Return the transport. Raises `ValueError` if the caller and the connection string name different ones."""
    if chosen is not None and named is not None and chosen != named:
        raise ValueError(
            f"transport is '{chosen}', and TransportType in the connection string says '{named}'; remove one of them"
        )
    return chosen or named or "amqp"


def _over_websocket(host: str, port: int | None, *, is_tls: bool) -> dict[str, Any]:
    """Return the SDK's options. Raises `InvalidProxy` if the environment names an unusable proxy."""
    options: dict[str, Any] = {"transport_type": TransportType.AmqpOverWebsocket}
    if port is not None:
        options["custom_endpoint_address"] = f"sb://{host}:{port}"  # otherwise the SDK drops the port
    scheme, default = ("wss", 443) if is_tls else ("ws", 80)
    proxy = Proxies().proxy_of(f"{scheme}://{host}:{port or default}")
    if proxy is not None:
        # The SDK joins name and port, and gives the result to aiohttp as the proxy's URL.
        before_port = proxy.url_with_password.rpartition(":")[0]
        options["http_proxy"] = {"proxy_hostname": before_port, "proxy_port": proxy.port}
    return options
