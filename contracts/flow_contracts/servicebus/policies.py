"""Reads the shared access policies of a queue, and lists those that may send to it."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import assert_never

from azure.core.exceptions import AzureError
from azure.servicebus.aio.management import ServiceBusAdministrationClient

from flow_contracts.connection_string import parse_connection_string
from flow_contracts.servicebus.connection import ConnectionString, Endpoint, Namespace
from flow_contracts.servicebus.events import log_event
from flow_contracts.servicebus.http_transport import EnvironmentProxyTransport

_log = logging.getLogger(__name__)

_SENDING_RIGHTS = {"Send", "Manage"}


async def other_senders(endpoint: Endpoint, queue: str, seconds: float) -> list[str] | None:
    """List the queue's own shared access policies, except the caller's, that grant Send or Manage.

    Return None if the caller may not read policies, if the broker has no administration interface, or after `seconds`.
    """
    text = endpoint.text if isinstance(endpoint, ConnectionString) else ""
    if "usedevelopmentemulator=true" in text.lower():
        return None  # such a broker has no administration over HTTPS
    try:
        async with asyncio.timeout(seconds), administration(endpoint) as client:
            rules = (await client.get_queue(queue)).authorization_rules or []
    except (AzureError, TimeoutError) as error:
        sentence = f"The policies of a queue are not readable: {type(error).__name__}"
        log_event(_log, logging.DEBUG, "servicebus.policies_unreadable", sentence)
        return None
    own = re.search(r"SharedAccessKeyName=([^;]+)", text, re.IGNORECASE)
    return [
        str(rule.key_name)
        for rule in rules
        if {str(getattr(right, "value", right)) for right in rule.rights or []} & _SENDING_RIGHTS
        and not (own and rule.key_name == own[1])
    ]


def administration(endpoint: Endpoint) -> ServiceBusAdministrationClient:
    """Return a client of the broker's administration, which an async context closes."""
    match endpoint:
        case ConnectionString(text):
            return ServiceBusAdministrationClient.from_connection_string(
                parse_connection_string(text).text, retry_total=1, transport=EnvironmentProxyTransport()
            )
        case Namespace(host, credential):
            return ServiceBusAdministrationClient(
                host, credential, retry_total=1, transport=EnvironmentProxyTransport()
            )
        case _:
            assert_never(endpoint)
