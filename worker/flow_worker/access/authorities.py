"""The authority port: an authority verifies the sender of a request and returns the proven principal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from pydantic import JsonValue, SecretStr

from flow_worker.access.principal import Principal

TokenClaims = Mapping[str, JsonValue]
"""The payload of a token, as its issuer wrote it."""


@dataclass(frozen=True, slots=True)
class DataverseSender:
    """The sender that the body of a native Dataverse message names. Unproven until an authority accepts it."""

    organization: str
    """`OrganizationId`, in lower case."""
    oid: str | None
    """`InitiatingUserAzureActiveDirectoryObjectId`; None for system and application users."""
    system_user: str
    """`InitiatingUserId`: the primary key of the user's row."""


@dataclass(frozen=True, slots=True)
class BoundRequest:
    """The parts of a request that a gateway's statement binds."""

    queue: str
    """The request queue, in lower case: Service Bus ignores the case of queue names."""
    message_id: str
    """The message ID that the gateway gave the request; a replay has another one."""
    flow: str
    input_sha256: str
    """See `input_hash`."""
    on_behalf_of: str | None = None
    """The user that an asserter names, as the request has it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The parts of a request that can prove its sender. Each authority reads the part that it understands."""

    claim: SecretStr | None
    enqueued_at: datetime
    """The broker's enqueue time of the request: the only time that its sender cannot choose."""
    dataverse_sender: DataverseSender | None = None
    request: BoundRequest | None = None
    """The request that the evidence came with."""


@dataclass(frozen=True, slots=True)
class ProvenSender:
    """The result of an authentication."""

    principal: Principal
    claims: TokenClaims = field(default_factory=dict, repr=False)
    """The token claims of a verified token; empty where the authority reads no token."""
    expires: int = 0
    """Unix seconds: a request enqueued until then may carry the claim. 0 where the authority reads no token."""


class Authority(Protocol):
    """Verifies the senders of one request queue."""

    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        """Return the proven sender.

        Raises `Refused` if the evidence is missing or invalid. Raises `TemporarilyUnavailable` if the authority cannot
        decide now, for example because an issuer is unreachable.
        """
        ...
