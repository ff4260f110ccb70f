"""Reads the shape of a queue and its shared access policies, from the administration interface of Service Bus."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_never
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.servicebus.management import QueueProperties

from flow_contracts.connection_string import parse_connection_string
from flow_contracts.servicebus.connection import ConnectionString, Endpoint, Namespace
from flow_contracts.servicebus.errors import ServiceBusMisconfigured, ServiceBusUnavailable
from flow_contracts.servicebus.events import log_event
from flow_contracts.servicebus.http_transport import EnvironmentProxyTransport

_log = logging.getLogger(__name__)

_SENDING_RIGHTS = {"Send", "Manage"}
_EMULATOR = "usedevelopmentemulator=true"


@dataclass(frozen=True, slots=True)
class QueueShape:
    """The properties of a queue that decide whether the worker's promises hold on it."""

    is_active: bool
    requires_session: bool
    duplicate_detection_window: timedelta | None
    """None: the queue detects no duplicates."""
    lock_duration: timedelta
    time_to_live: timedelta
    max_delivery_count: int
    dead_letters_expired: bool
    other_senders: tuple[str, ...]
    """The queue's own shared access policies, except the caller's, that grant Send or Manage."""


async def queue_shape(
    endpoint: Endpoint, queue: str, seconds: float, administration_url: str | None = None
) -> QueueShape:
    """Return the shape of a queue.

    `administration_url` is the address of a broker's administration that is not the namespace's own, such as an
    emulator's. Raises `ServiceBusMisconfigured` if the caller may not read it or the queue is missing, and
    `ServiceBusUnavailable` if there is no answer.
    """
    try:
        async with asyncio.timeout(seconds), administration(endpoint, administration_url) as client:
            return _shape(await client.get_queue(queue), _text(endpoint))
    except ResourceNotFoundError:
        raise ServiceBusMisconfigured(f"there is no queue '{queue}'") from None
    except TimeoutError as error:
        raise ServiceBusUnavailable(f"the administration did not answer within {seconds:g} s") from error
    except AzureError as error:
        status = error.status_code if isinstance(error, HttpResponseError) else None
        if status in (401, 403):
            raise ServiceBusMisconfigured(f"the administration refused with {status}") from None
        raise ServiceBusUnavailable(f"the administration is unreachable ({type(error).__name__})") from error


async def other_senders(endpoint: Endpoint, queue: str, seconds: float) -> list[str] | None:
    """List the queue's own shared access policies, except the caller's, that grant Send or Manage.

    Return None if the caller may not read policies, if the broker has no administration interface, or after `seconds`.
    """
    if _EMULATOR in _text(endpoint).lower():
        return None  # such a broker has no administration over HTTPS
    try:
        return list((await queue_shape(endpoint, queue, seconds)).other_senders)
    except (ServiceBusMisconfigured, ServiceBusUnavailable) as error:
        sentence = f"The policies of a queue are not readable: {error}"
        log_event(_log, logging.DEBUG, "servicebus.policies_unreadable", sentence)
        return None


def _shape(queue: QueueProperties, connection_string: str) -> QueueShape:
    window = queue.duplicate_detection_history_time_window if queue.requires_duplicate_detection else None
    return QueueShape(
        is_active=str(getattr(queue.status, "value", queue.status)).lower() == "active",
        requires_session=bool(queue.requires_session),
        duplicate_detection_window=_duration(window) if window is not None else None,
        lock_duration=_duration(queue.lock_duration),
        time_to_live=_duration(queue.default_message_time_to_live),
        max_delivery_count=queue.max_delivery_count or 0,
        dead_letters_expired=bool(queue.dead_lettering_on_message_expiration),
        other_senders=tuple(_senders(queue, connection_string)),
    )


def _senders(queue: QueueProperties, connection_string: str) -> list[str]:
    own = re.search(r"SharedAccessKeyName=([^;]+)", connection_string, re.IGNORECASE)
    return [
        str(rule.key_name)
        for rule in queue.authorization_rules or []
        if {str(getattr(right, "value", right)) for right in rule.rights or []} & _SENDING_RIGHTS
        and not (own and rule.key_name == own[1])
    ]


def _duration(value: object) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta()


def _text(endpoint: Endpoint) -> str:
    return endpoint.text if isinstance(endpoint, ConnectionString) else ""


class _PlainHttp(EnvironmentProxyTransport):
    """Sends the requests of the SDK, which knows HTTPS only, to an emulator's administration over HTTP."""

    async def send(self, request: Any, **config: Any) -> Any:  # Any: as azure-core declares it
        """Send one request."""
        request.url = request.url.replace("https://", "http://", 1)
        return await super().send(request, **config)


def administration(endpoint: Endpoint, url: str | None = None) -> ServiceBusAdministrationClient:
    """Return a client of the broker's administration, at `url` or the namespace. An async context closes it."""
    address = urlsplit(url) if url is not None else None
    is_plain = address is not None and address.scheme == "http"
    # The SDK declares its keyword arguments as Any.
    options: dict[str, Any] = {
        "retry_total": 1,
        "transport": _PlainHttp() if is_plain else EnvironmentProxyTransport(),
    }
    match endpoint:
        case ConnectionString(text):
            text = parse_connection_string(text).text
            if address is not None:
                text = re.sub(r"(?i)(Endpoint=sb://)[^;/]*", lambda found: f"{found[1]}{address.netloc}", text)
            return ServiceBusAdministrationClient.from_connection_string(text, **options)
        case Namespace(host, credential):
            host = address.netloc if address is not None else host
            return ServiceBusAdministrationClient(host, credential, **options)
        case _:
            assert_never(endpoint)
