"""Where AMQP is to be had, as the ready line says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WEBSOCKET_PATH = "/$servicebus/websocket"
"""The service's own (see `emulator.websocket`)."""
_EVERY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104 - what a user may listen on, not what we choose


@dataclass(frozen=True, slots=True)
class Transports:
    """The ports besides plain TCP that are bound; None for what is off."""

    host: str
    amqps_port: int | None
    ws_port: int | None
    wss_port: int | None
    ca_certificate: Path | None
    """The authority that clients have to trust; None without TLS, or where the user brought the certificate."""

    def ready(self) -> dict[str, str | None]:
        """The fields of the ready line."""
        amqps = self._url("amqps", self.amqps_port)
        return {
            "amqps_url": amqps,
            "amqps_connection_string": amqps and _secured(amqps.replace("amqps://", "sb://", 1)),
            "ws_url": self._url("ws", self.ws_port, WEBSOCKET_PATH),
            "wss_url": self._url("wss", self.wss_port, WEBSOCKET_PATH),
            "ca_certificate": str(self.ca_certificate) if self.ca_certificate else None,
        }

    def _url(self, scheme: str, port: int | None, path: str = "") -> str | None:
        host = "localhost" if self.host in _EVERY_ADDRESS else self.host
        return None if port is None else f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"


def connection_string(host: str, port: int) -> str:
    """What the SDKs are given: the development policy, whose key is public knowledge (`policies.DEVELOPMENT`)."""
    return (
        f"Endpoint=sb://{host}:{port};SharedAccessKeyName=RootManageSharedAccessKey;"
        "SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;"
    )


def _secured(endpoint: str) -> str:
    """One of the cloud's form: without the emulator's flag clients speak TLS."""
    return f"Endpoint={endpoint};SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE;"
