"""How to connect to Service Bus: the SDK's client."""

from __future__ import annotations

import ssl
from typing import Any

import certifi
from azure.core.credentials_async import AsyncTokenCredential
from azure.servicebus.aio import ServiceBusClient

from flow_worker.settings import ServiceBusSettings


def client_for(settings: ServiceBusSettings, credential: AsyncTokenCredential | None) -> ServiceBusClient:
    """The SDK retries little: the lane and the reply publisher retry on new connections, and say so.

    One TLS context serves all connections: the SDK would load the trusted certificates anew for each, some 20 ms of
    processor time while every lane waits.
    """
    options: dict[str, Any] = {  # the SDK's are keywords of many kinds
        "retry_total": 1,
        "retry_backoff_factor": 0.2,
        "ssl_context": ssl.create_default_context(cafile=certifi.where()),
    }
    if settings.connection_string:
        return ServiceBusClient.from_connection_string(settings.connection_string.get_secret_value(), **options)
    if settings.namespace is None or credential is None:
        raise ValueError("neither a connection string nor a namespace")  # ServiceBusSettings holds one of them
    return ServiceBusClient(settings.namespace, credential, **options)
