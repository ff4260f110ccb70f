"""Keeps the gateway's requests, their states and their results, behind one port with two backends."""

from flow_worker.gateway.store.port import (
    NOW,
    Changes,
    Cursor,
    GatewayStore,
    PrincipalId,
    PutResult,
    RequestRecord,
    RequestState,
    ResultTooLarge,
    Retention,
    Standing,
    StateName,
    StoredRequest,
    StoredResult,
)

__all__ = [
    "NOW",
    "Changes",
    "Cursor",
    "GatewayStore",
    "PrincipalId",
    "PutResult",
    "RequestRecord",
    "RequestState",
    "ResultTooLarge",
    "Retention",
    "Standing",
    "StateName",
    "StoredRequest",
    "StoredResult",
]
