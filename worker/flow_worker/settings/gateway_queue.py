"""Compares the gateway's request queue with the worker's request queues, for a file that configures both."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flow_worker.settings.gateway import GatewaySettings
from flow_worker.settings.groups import RequestQueue
from flow_worker.settings.loading import InvalidSettings, Layered
from flow_worker.settings.settings import Settings, load_as


class _RequestQueues(Layered):
    request_queues: tuple[RequestQueue, ...] | None = None


def request_queues(config: Path | None, env_file: Path | None) -> tuple[RequestQueue, ...]:
    """Return the worker's request queues in the gateway's settings. Nothing if there are none, or they are faulty.

    A gateway with settings for itself does not depend on the part for workers.
    """
    try:
        return load_as(_RequestQueues, config, env_file).request_queues or ()
    except InvalidSettings:
        return ()


def configured_queues(settings: Settings) -> tuple[RequestQueue, ...]:
    """Return the request queues that somebody configured beside a gateway; nothing without a table `gateway`."""
    return settings.request_queues if {"gateway", "request_queues"} <= settings.model_fields_set else ()


def unserved(gateway: GatewaySettings, queues: Iterable[RequestQueue]) -> str | None:
    """Return a warning if no worker with these queues serves the gateway; None without any queue.

    Raises `InvalidSettings` if the gateway's request queue has an authority that refuses each of its requests.
    """
    authorities = {queue.name.lower(): queue.authority for queue in queues}
    name = gateway.request_queue
    authority = authorities.get(name.lower())
    if authority is not None and authority != "gateway":
        raise InvalidSettings(
            f"gateway.request_queue: '{name}' has the authority '{authority}' in request_queues, so the worker refuses "
            "each request of the gateway; set authority 'gateway' and reply_to there, or name another queue"
        )
    if authority is not None or not authorities:
        return None
    return (
        f"gateway.request_queue '{name}' is in no [[request_queues]] with authority 'gateway': requests wait until a "
        "worker with such settings runs."
    )
