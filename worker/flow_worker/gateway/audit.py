"""Writes the gateway's decisions into the audit log, without token and input."""

from __future__ import annotations

import logging

from flow_contracts.request import MAX_FLOW_NAME_LENGTH
from flow_worker.access.principal import Principal
from flow_worker.telemetry.logs import log

_audit = logging.getLogger("flow_worker.audit")


def refused(code: str, principal: Principal | None, flow: str | None) -> None:
    """Log a refusal. The worker learns nothing of it, because no message is sent.

    The name of a refused flow is the caller's text: its beginning suffices.
    """
    sentence = f"The gateway refused a caller: {code}."
    log(
        _audit,
        logging.INFO,
        "gateway.refused",
        sentence,
        flow=flow and flow[:MAX_FLOW_NAME_LENGTH],
        code=code,
        **_caller(principal),
    )


def accepted(principal: Principal, flow: str, request_id: str) -> None:
    """Log a request that the request queue accepted. At DEBUG: the worker's audit log has each of them anyway."""
    sentence = f"The gateway accepted a request for '{flow}'."
    log(_audit, logging.DEBUG, "gateway.accepted", sentence, flow=flow, message_id=request_id, **_caller(principal))


def _caller(principal: Principal | None) -> dict[str, str | None]:
    if principal is None:
        return {}
    return {
        "tenant": principal.tenant,
        "caller": principal.oid,
        "caller_kind": principal.kind,
        "on_behalf_of": principal.on_behalf_of,
    }
