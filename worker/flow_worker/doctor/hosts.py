"""The hosts that the worker connects to, from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from flow_worker.settings import ServiceBusSettings, Settings

NO_ADMINISTRATION = "servicebus.administration_url is not set"
"""Any broker of the machine can listen on an emulator's usual port, so the port proves nothing."""
SET_ADMINISTRATION = (
    "Start the emulator with --admin-port 5300, and set servicebus.administration_url to its address; "
    "`servicebus-emulator settings` prints it."
)
_AMQPS_PORT, _AMQP_PORT, _HTTPS_PORT, _HTTP_PORT = 5671, 5672, 443, 80


@dataclass(frozen=True, slots=True)
class Host:
    """One address. `is_http`: HTTP proxies apply to it."""

    name: str
    port: int
    tls: bool
    is_http: bool = True

    @property
    def address(self) -> str:
        """Return `name:port`."""
        return f"{f'[{self.name}]' if ':' in self.name else self.name}:{self.port}"


def hosts_of(settings: Settings) -> dict[Host, list[str]]:
    """Return each host with what the worker uses it for."""
    found: dict[Host, list[str]] = {broker(settings.servicebus): ["Service Bus"]}
    urls = [("issuer", settings.authority), *(("Dataverse", url) for url in settings.dataverse_urls)]
    if settings.journal.backend == "table" and settings.journal.table_endpoint:
        urls.append(("journal", settings.journal.table_endpoint))
    urls += [(f"flow {name}", flow.url.get_secret_value()) for name, flow in settings.flows.items()]
    for purpose, url in urls:
        found.setdefault(of_url(url), []).append(purpose)
    return found


def of_url(url: str) -> Host:
    """Return the host of an absolute URL, which the settings have checked."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return Host(parts.hostname or "", parts.port or (_HTTPS_PORT if tls else _HTTP_PORT), tls)


def broker(settings: ServiceBusSettings) -> Host:
    """Return the host of Service Bus for AMQP."""
    websocket = settings.effective_transport == "websocket"
    parts = settings.connection_parts
    if parts is None:
        return Host(settings.namespace or "", _HTTPS_PORT if websocket else _AMQPS_PORT, tls=True, is_http=websocket)
    tls = not parts.is_emulator
    defaults = {(True, True): _HTTPS_PORT, (True, False): _HTTP_PORT, (False, True): _AMQPS_PORT}
    default = defaults.get((websocket, tls), _AMQP_PORT)
    # Over TLS the SDK connects to its own port, whatever the connection string says.
    port = default if tls and not websocket else parts.port or default
    return Host(parts.host, port, tls, is_http=websocket)


def has_administration(settings: ServiceBusSettings) -> bool:
    """Return whether the address of the administration is known: a namespace's own, or the one of the settings."""
    return settings.administration_url is not None or not is_emulator(settings)


def is_emulator(settings: ServiceBusSettings) -> bool:
    """Return whether the connection string is one of an emulator, which has no TLS."""
    parts = settings.connection_parts
    return parts is not None and parts.is_emulator
