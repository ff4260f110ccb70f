"""Checks that the gateway and the worker name the same queues, and that the gateway's store takes requests."""

from __future__ import annotations

import secrets
from functools import partial

from flow_worker.doctor.finding import Check, Result, failed, ok, unseen
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.store.build import open_raw_store
from flow_worker.settings import GatewaySettings, InvalidSettings, Settings
from flow_worker.settings.gateway_queue import configured_queues

_REMEDY = "Free or repair the storage of the gateway's store; until then the gateway answers 503."


def checks(settings: Settings) -> list[Check]:
    """Return the checks; none without a queue of a gateway, unless a table `gateway` stands beside other queues."""
    if not settings.gateway_reply_queues and not configured_queues(settings):
        return []
    store = settings.gateway.store
    place = store.path if store.backend == "sqlite" else store.table_name
    return [
        Check("gateway", "queues", partial(_check_queues, settings)),
        Check("gateway", f"store {store.backend} {place}", partial(_check_store, settings)),
    ]


async def _check_queues(settings: Settings) -> Result:
    gateway = settings.gateway
    replies = settings.gateway_reply_queues.get(gateway.request_queue.lower())
    if replies is not None and replies.lower() == gateway.reply_queue.lower():
        return ok(f"requests in {gateway.request_queue}, results in {gateway.reply_queue}")
    if "gateway" not in settings.model_fields_set:
        return unseen("these settings have no table 'gateway': compare the queues with those of the gateway's settings")
    if replies is None:
        wrong = f"the gateway sends to {gateway.request_queue}, and no request queue of this name has its authority"
        return failed(wrong, "Give both the same name: gateway.request_queue, and a queue in request_queues.")
    wrong = f"the worker sends results to {replies}, and the gateway reads {gateway.reply_queue}"
    return failed(wrong, "Give both the same name: gateway.reply_queue, and reply_to of the request queue.")


async def _check_store(settings: Settings) -> Result:
    gateway = settings.gateway
    if gateway.store.backend == "sqlite" and not gateway.store.path.exists():
        # Not created here: the file could belong to another user than the gateway's.
        return unseen(f"{gateway.store.path} is not on this machine; the gateway creates it at its first start")
    try:
        await _try(gateway, settings.identity.client_id)
    except InvalidSettings as error:
        return failed(str(error), "Correct the settings in gateway.store.")
    except TemporarilyUnavailable as error:
        return failed(error.message, _REMEDY)
    except OSError as error:
        return failed(f"the store cannot be examined ({error.strerror or error})", _REMEDY)
    return ok("it takes requests, and it can be read")


async def _try(settings: GatewaySettings, client_id: str | None) -> None:
    store = await open_raw_store(settings, client_id=client_id, reserve=False)  # the gateways keep the reserve
    try:
        await store.check()
        await store.get(secrets.token_hex(16))
    finally:
        await store.aclose()
