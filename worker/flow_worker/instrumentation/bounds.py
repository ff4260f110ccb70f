"""Bounds the values of labels: names from the settings, and codes from lists of ours. Everything else is one value."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

from flow_worker.settings import Settings
from flow_worker.telemetry.metrics import OTHER

_LAST_STATUS = 599

Server = tuple[str, int | str]
"""Host and port of a flow; `OTHER` and an empty port for hosts that no registered flow has."""


class Bounds:
    """The values that labels of one worker may have."""

    def __init__(self, settings: Settings) -> None:
        self._flows = frozenset(settings.flows)
        self._authorities = {queue.name: queue.authority for queue in settings.request_queues}
        self._servers = frozenset(_server(flow.url.get_secret_value()) for flow in settings.flows.values())
        self.namespace, self.namespace_port = settings.servicebus.server

    def flow(self, name: str | None) -> str:
        """Return the name of a registered flow."""
        return name if name is not None and name in self._flows else OTHER

    def authority(self, queue: str) -> str:
        """Return the authority of a request queue."""
        return self._authorities.get(queue, OTHER)

    def server(self, url: str) -> Server:
        """Return the server of a URL if a registered flow is there, without the rest of the URL."""
        found = _server(url)
        return found if found in self._servers else (OTHER, "")


def bounded_status(status: int) -> int | str:
    """Return an HTTP status of RFC 9110's classes."""
    return status if 100 <= status <= _LAST_STATUS else OTHER


@lru_cache(maxsize=1024)
def _server(url: str) -> Server:
    try:
        parts = urlsplit(url)
        return parts.hostname or OTHER, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return OTHER, ""
