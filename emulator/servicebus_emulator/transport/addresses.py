"""The addresses of the AMQP listeners, as the ready line reports them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WEBSOCKET_PATH = "/$servicebus/websocket"
"""The path that the service uses, and the SDKs with it (see `websocket`)."""
WILDCARD_ADDRESSES = ("0.0.0.0", "::", "")  # noqa: S104 - compared with the user's choice, not bound by default
"""Hosts that stand for every address of the machine; clients connect to localhost instead."""


@dataclass(frozen=True, slots=True)
class AmqpAddresses:
    """The bound ports beside plain TCP; None for a transport that is off."""

    host: str
    amqps_port: int | None
    ws_port: int | None
    wss_port: int | None
    ca_certificate: Path | None
    """The authority that clients must trust; None without TLS, or if the user supplied the certificate."""

    def ready(self) -> dict[str, str | None]:
        """Return the fields of the ready line."""
        amqps = self._url("amqps", self.amqps_port)
        return {
            "amqps_url": amqps,
            "amqps_connection_string": amqps and _tls_connection_string(amqps.replace("amqps://", "sb://", 1)),
            "ws_url": self._url("ws", self.ws_port, WEBSOCKET_PATH),
            "wss_url": self._url("wss", self.wss_port, WEBSOCKET_PATH),
            "ca_certificate": str(self.ca_certificate) if self.ca_certificate else None,
        }

    def _url(self, scheme: str, port: int | None, path: str = "") -> str | None:
        host = "localhost" if self.host in WILDCARD_ADDRESSES else self.host
        return None if port is None else f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"


def connection_string(host: str, port: int) -> str:
    """Return the SDKs' connection string. Its key belongs to the development policy and is public.

    `UseDevelopmentEmulator=true` makes the SDKs connect without TLS.
    """
    return (
        f"Endpoint=sb://{host}:{port};SharedAccessKeyName=RootManageSharedAccessKey;"
        "SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;"
    )


def _tls_connection_string(endpoint: str) -> str:
    """Return a connection string without the emulator's flag, with which the SDKs use TLS."""
    return f"Endpoint={endpoint};SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE;"
