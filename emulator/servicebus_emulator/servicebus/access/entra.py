"""Entra ID: bearer tokens, and the data roles of the identities they name.

Source: Microsoft Learn, "Authenticate and authorize an application with Microsoft Entra ID to access Azure Service Bus
entities": the resource, and the three built-in roles.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from servicebus_emulator.servicebus.access.permissions import Permission, ValidatedCredential
from servicebus_emulator.servicebus.access.policies import ALL_RIGHTS, Right
from servicebus_emulator.servicebus.errors import UNAUTHORIZED, ServiceBusError

_log = logging.getLogger(__name__)
_LATEST = 10**12
"""Seconds since the epoch that will do for ever."""
AUDIENCES = ("https://servicebus.azure.net", "https://servicebus.azure.net/")


class InvalidToken(Exception):
    """A JSON web token that proves nothing; the message says why."""


class DataRole(Enum):
    """What an identity may do with messages, by the names of Azure's built-in roles."""

    SENDER = "Azure Service Bus Data Sender"
    RECEIVER = "Azure Service Bus Data Receiver"
    OWNER = "Azure Service Bus Data Owner"

    @property
    def rights(self) -> Right:
        """The rights that come with it."""
        return {DataRole.SENDER: Right.SEND, DataRole.RECEIVER: Right.LISTEN}.get(self, ALL_RIGHTS)


@dataclass(frozen=True, slots=True)
class RoleAssignment:
    """`queue`: where it holds; empty: in the whole namespace."""

    object_id: UUID
    role: DataRole
    queue: str = ""


class EntraTokenValidator:
    """`verify` gives a token's claims, or raises `InvalidToken`; `issuers` are those of the namespace's tenant."""

    def __init__(
        self,
        verify: Callable[[str], Mapping[str, object]],
        issuers: Collection[str],
        assignments: Iterable[RoleAssignment],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._verify = verify
        self._issuers = issuers
        self._clock = clock
        self._grants: dict[str, list[Permission]] = {}
        for one in assignments:
            queue = one.queue.lower()
            self._grants.setdefault(str(one.object_id), []).append(Permission(one.role.rights, queue, queue))

    def examine(self, token: str) -> ValidatedCredential:
        """What the token's bearer may do: nothing, without a role. Raises `ServiceBusError` (unauthorized)."""
        try:
            claims = self._verify(token)
        except InvalidToken as error:
            _log.info("A token put to $cbs is not valid: %s", error)
            raise ServiceBusError(UNAUTHORIZED, f"InvalidToken: the JSON web token is not valid: {error}.") from None
        _require("aud", claims, AUDIENCES, "InvalidAudience")
        _require("iss", claims, self._issuers, "InvalidIssuer")
        expires_at = _moment(claims)
        if expires_at <= self._clock():  # within the skew that a verifier allows, it would end as soon as it is taken
            raise ServiceBusError(UNAUTHORIZED, "ExpiredToken: the JSON web token has expired ('exp').")
        return ValidatedCredential(tuple(self._grants.get(str(claims.get("oid")).lower(), ())), expires_at)


def _require(name: str, claims: Mapping[str, object], allowed: Collection[str], what: str) -> None:
    if claims.get(name) not in allowed:
        text = f"{what}: the token's '{name}' must be {' or '.join(allowed)}."
        raise ServiceBusError(UNAUTHORIZED, text)


def _moment(claims: Mapping[str, object]) -> int:
    value = claims.get("exp")
    return min(int(value), _LATEST) if isinstance(value, int | float | str) else 0
