"""The shared access policies of a queue: who may send to it."""

from __future__ import annotations

import asyncio
import logging
import re

from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError
from azure.servicebus.aio.management import ServiceBusAdministrationClient

from flow_worker.settings import ServiceBusSettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)


async def other_senders(
    settings: ServiceBusSettings, credential: AsyncTokenCredential | None, queue: str
) -> list[str] | None:
    """Names of the queue's own shared access policies, other than ours, that may send; None: we may not look."""
    secret = settings.connection_string
    text = secret.get_secret_value() if secret else ""
    if "usedevelopmentemulator=true" in text.lower():
        return None  # it has no administration over https
    try:
        async with (
            asyncio.timeout(settings.open_seconds),
            _administration(settings, credential, text) as administration,
        ):
            rules = (await administration.get_queue(queue)).authorization_rules or []
    except (AzureError, TimeoutError) as error:
        log(_log, logging.DEBUG, "servicebus.policies_unreadable", f"Policies not read: {type(error).__name__}")
        return None
    own = re.search(r"SharedAccessKeyName=([^;]+)", text, re.IGNORECASE)
    return [
        str(rule.key_name)
        for rule in rules
        if {str(getattr(right, "value", right)) for right in rule.rights or []} & {"Send", "Manage"}
        and not (own and rule.key_name == own[1])
    ]


def _administration(
    settings: ServiceBusSettings, credential: AsyncTokenCredential | None, connection_string: str
) -> ServiceBusAdministrationClient:
    if connection_string:
        return ServiceBusAdministrationClient.from_connection_string(connection_string, retry_total=1)
    if settings.namespace is None or credential is None:
        raise ValueError("neither a connection string nor a namespace")  # ServiceBusSettings holds one of them
    return ServiceBusAdministrationClient(settings.namespace, credential, retry_total=1)
