"""Opens Service Bus as the worker's settings configure it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flow_contracts.servicebus import ClockEvidence, ConnectionString, Deadlines, Endpoint, Namespace, ServiceBus
from flow_contracts.servicebus.credentials import AsyncCredential
from flow_worker.azure_identity import credential_for, turn_off_sdk_tracing
from flow_worker.settings import ServiceBusSettings


@asynccontextmanager
async def open_service_bus(
    settings: ServiceBusSettings, *, client_id: str | None = None, evidence: ClockEvidence | None = None
) -> AsyncIterator[ServiceBus]:
    """Yield Service Bus with one client and one credential; close both at the end.

    `client_id` is that of a user-assigned managed identity. `evidence` learns the broker's times.
    """
    turn_off_sdk_tracing()
    credential = credential_for(settings, client_id)
    try:
        async with ServiceBus(
            _endpoint(settings, credential),
            deadlines=_deadlines(settings),
            senders_per_queue=settings.senders_per_queue,
            sdk_retries=1,
            evidence=evidence,
        ) as bus:
            yield bus
    finally:
        if credential is not None:
            await credential.close()


def _endpoint(settings: ServiceBusSettings, credential: AsyncCredential | None) -> Endpoint:
    if settings.connection_string is not None:
        return ConnectionString(settings.connection_string.get_secret_value(), settings.transport)
    if settings.namespace is None or credential is None:
        raise ValueError("neither a connection string nor a namespace")  # ServiceBusSettings holds one of them
    return Namespace(settings.namespace, credential, settings.transport)


def _deadlines(settings: ServiceBusSettings) -> Deadlines:
    return Deadlines(
        open_seconds=settings.open_seconds,
        send_seconds=settings.send_seconds,
        settle_seconds=settings.settle_seconds,
        renew_seconds=settings.renew_seconds,
        receive_wait_seconds=settings.receive_wait_seconds,
        probe_interval_seconds=settings.probe_interval_seconds,
    )
