"""Checks what a gateway on this machine needs: its two ports, and its rights on its queues."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial

import httpx

from flow_contracts.servicebus import ServiceBus
from flow_worker.doctor.finding import Check, Outcome, Result, failed, ok, unseen
from flow_worker.doctor.local import Port, check_health_port, is_free
from flow_worker.doctor.queues import check_receive, check_send
from flow_worker.settings import GatewaySettings, Settings

_ANSWER_SECONDS = 3.0
_SERVER = "flow-worker"


def checks(settings: Settings, bus: ServiceBus, client: httpx.AsyncClient) -> list[Check]:
    """Return the checks; none without a table `gateway`, because a gateway with settings elsewhere runs elsewhere."""
    if "gateway" not in settings.model_fields_set:
        return []
    gateway = settings.gateway
    by_key = settings.servicebus.connection_string is not None
    health = Port(gateway.health, "gateway.health_host", "gateway.health_port", "gateway")
    send = partial(check_send, bus, gateway.request_queue, by_key)
    receive = partial(check_receive, bus, gateway.reply_queue, by_key)
    return [
        Check("port", f"gateway {gateway.port}", partial(_check_port, gateway, client), 10.0),
        Check("port", f"gateway health {gateway.health_port}", partial(check_health_port, health, client), 10.0),
        Check("gateway", f"right to send to {gateway.request_queue}", partial(_of_identity, send)),
        Check("gateway", f"right to receive from {gateway.reply_queue}", partial(_of_identity, receive)),
    ]


async def _of_identity(check: partial[Coroutine[None, None, Result]]) -> Result:
    """Run the check with the worker's identity. The gateway's may be another one, so a missing right is no fault."""
    found = await check()
    if found.outcome is not Outcome.FAILED or "Assign the role" not in found.remedy:
        return found
    return unseen(f"this identity lacks the right: {found.detail}", f"If the gateway has the identity: {found.remedy}")


async def _check_port(gateway: GatewaySettings, client: httpx.AsyncClient) -> Result:
    port = Port(gateway.endpoint, "gateway.host", "gateway.port", "gateway")
    if gateway.port == 0:
        return unseen("the gateway chooses a free port at each start")
    try:
        response = await client.get(f"{port.endpoint.url}/openapi.json", timeout=_ANSWER_SECONDS)
    except (httpx.HTTPError, TimeoutError):
        return await is_free(port)
    if response.headers.get("Server") == _SERVER:
        return ok(f"a gateway answers at {port.endpoint.url}")
    return failed(f"another program answers at {port.endpoint.url}", f"Stop it, or change {port.port_setting}.")
