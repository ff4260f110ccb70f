"""Microsoft Entra ID: validates bearer tokens, and maps identities to the data roles of Service Bus.

Source of the resource and the three built-in roles: Microsoft Learn, "Authenticate and authorize an application with
Microsoft Entra ID to access Azure Service Bus entities".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import assert_never
from uuid import UUID

from servicebus_emulator.servicebus.access.permissions import Permission, ValidatedCredential
from servicebus_emulator.servicebus.access.policies import ALL_RIGHTS, Right
from servicebus_emulator.servicebus.errors import UNAUTHORIZED, ServiceBusError

_log = logging.getLogger(__name__)
_MAX_EXPIRY = 10**12
"""A larger expiry is cut off here: timers cannot count to arbitrary moments."""
AUDIENCES = ("https://servicebus.azure.net", "https://servicebus.azure.net/")


class InvalidToken(Exception):
    """A JSON web token is invalid. The message says why."""


class DataRole(Enum):
    """The built-in Azure roles for the messages of a namespace."""

    SENDER = "Azure Service Bus Data Sender"
    RECEIVER = "Azure Service Bus Data Receiver"
    OWNER = "Azure Service Bus Data Owner"

    @property
    def rights(self) -> Right:
        """The rights that the role gives."""
        match self:
            case DataRole.SENDER:
                return Right.SEND
            case DataRole.RECEIVER:
                return Right.LISTEN
            case DataRole.OWNER:
                return ALL_RIGHTS
            case _:
                assert_never(self)


@dataclass(frozen=True, slots=True)
class RoleAssignment:
    """A role that an identity has on one queue, or on the whole namespace if `queue` is empty."""

    object_id: UUID
    role: DataRole
    queue: str = ""


class EntraTokenValidator:
    """Validates tokens that Entra ID issued.

    `verify`: returns the token claims of an authentic token, or raises `InvalidToken`. `issuers`: the issuers of the
    namespace's tenant.
    """

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
        self._permissions: dict[str, list[Permission]] = {}
        for assignment in assignments:
            queue = assignment.queue.lower()
            permission = Permission(assignment.role.rights, queue, queue)
            self._permissions.setdefault(str(assignment.object_id), []).append(permission)

    def validate(self, token: str) -> ValidatedCredential:
        """Return the permissions of the token's identity. Raises `ServiceBusError` (unauthorized).

        The token of an identity without a role is valid, but carries no permission. The identity is refused
        later, when it needs a right, as at the service.
        """
        try:
            claims = self._verify(token)
        except InvalidToken as error:
            _log.info("A token put to $cbs is not valid: %s", error)
            raise ServiceBusError(UNAUTHORIZED, f"InvalidToken: the JSON web token is not valid: {error}.") from None
        _require("aud", claims, AUDIENCES, "InvalidAudience")
        _require("iss", claims, self._issuers, "InvalidIssuer")
        expires_at = _expiry(claims)
        # A verifier accepts a token for a moment after its expiry, because clocks differ. Here that would be of no
        # use: the links of an expired token are detached at once.
        if expires_at <= self._clock():
            raise ServiceBusError(UNAUTHORIZED, "ExpiredToken: the JSON web token has expired ('exp').")
        object_id = str(claims.get("oid")).lower()
        return ValidatedCredential(tuple(self._permissions.get(object_id, ())), expires_at)


def _require(name: str, claims: Mapping[str, object], allowed: Collection[str], error: str) -> None:
    if claims.get(name) not in allowed:
        text = f"{error}: the token's '{name}' must be {' or '.join(allowed)}."
        raise ServiceBusError(UNAUTHORIZED, text)


def _expiry(claims: Mapping[str, object]) -> int:
    value = claims.get("exp")
    return min(int(value), _MAX_EXPIRY) if isinstance(value, int | float | str) else 0
