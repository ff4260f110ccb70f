"""Reads how many messages queues hold. That needs the Manage right: the broker's administration alone counts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from azure.core.exceptions import AzureError, ClientAuthenticationError, ResourceNotFoundError, ServiceRequestError

from flow_contracts.servicebus.connection import Endpoint
from flow_contracts.servicebus.policies import administration


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The numbers of messages in one queue, or the reason why they are unknown."""

    active: int | None = None
    scheduled: int | None = None
    dead_lettered: int | None = None
    unknown: str | None = None


async def queue_depths(
    endpoint: Endpoint, queues: Iterable[str], seconds: float, administration_url: str | None = None
) -> dict[str, QueueDepth]:
    """Return the depth of each queue. An error leaves a depth unknown, and `seconds` bounds the whole.

    `administration_url`: see `policies.queue_shape`.
    """
    depths: dict[str, QueueDepth] = {}
    try:
        async with asyncio.timeout(seconds), administration(endpoint, administration_url) as client:
            for queue in queues:
                try:
                    counts = await client.get_queue_runtime_properties(queue)
                except ResourceNotFoundError:
                    depths[queue] = QueueDepth(unknown="there is no such queue")
                else:
                    depths[queue] = QueueDepth(
                        counts.active_message_count,
                        counts.scheduled_message_count,
                        counts.dead_letter_message_count,
                    )
    except (AzureError, TimeoutError, OSError, ValueError) as error:
        unknown = QueueDepth(unknown=_reason(error))
        return {queue: depths.get(queue, unknown) for queue in queues}
    return depths


def _reason(error: Exception) -> str:
    if isinstance(error, ClientAuthenticationError) or getattr(error, "status_code", None) in (401, 403):
        return "this identity lacks the Manage right"
    if isinstance(error, ServiceRequestError):
        return "the administration is unreachable"
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
