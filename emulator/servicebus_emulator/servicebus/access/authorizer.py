"""Validates the credentials of a namespace's clients, and checks the rights that they carry."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import chain
from typing import Protocol

from servicebus_emulator.servicebus.access import sas
from servicebus_emulator.servicebus.access.permissions import Permission, ValidatedCredential, entity_of
from servicebus_emulator.servicebus.access.policies import ALL_RIGHTS, DEVELOPMENT_POLICY, Policy, Right
from servicebus_emulator.servicebus.errors import UNAUTHORIZED, ServiceBusError

_BEARER = "bearer "
_MESSAGES = "messages"
_JWT_PARTS = 3
_EVERYTHING = ValidatedCredential((Permission(ALL_RIGHTS),))


class AccessMode(StrEnum):
    """CHECKED: the emulator validates tokens. OPEN: it accepts any text that has the form of a token."""

    CHECKED = "checked"
    OPEN = "open"


class JwtValidator(Protocol):
    """Validates JSON web tokens."""

    def validate(self, token: str) -> ValidatedCredential:
        """Return the content of a valid token. Raises `ServiceBusError` (unauthorized) for an invalid one."""
        ...


class Authorizer:
    """Validates the credentials for one namespace.

    `policies`: the policies of the namespace. `queue_policies`: returns the current policies of the queues.
    `jwt_validator`: None refuses JSON web tokens. `clock`: the machine's clock, even if tests move the broker's clock.
    Clients compute the expiry of their tokens from the real time.
    """

    def __init__(
        self,
        policies: Iterable[Policy] = (DEVELOPMENT_POLICY,),
        *,
        queue_policies: Callable[[], Iterable[Policy]] = tuple,
        access: AccessMode = AccessMode.CHECKED,
        jwt_validator: JwtValidator | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.is_checking = access is AccessMode.CHECKED
        self.jwt_validator = jwt_validator
        self.now = clock
        self._namespace_policies = tuple(policies)
        self._queue_policies = queue_policies

    def authorize(self, header_value: str | None, entity: str, right: Right) -> None:
        """Check the `Authorization` header of an HTTP request for one of the rights over an entity.

        `entity`: a queue's name in any case; the empty text means the namespace. Raises `ServiceBusError`
        (unauthorized).
        """
        if header_value is None:
            raise ServiceBusError(UNAUTHORIZED, "MissingToken: the Authorization header is missing.")
        header_value, path = header_value.strip(), entity.strip("/").lower()
        is_bearer = header_value[: len(_BEARER)].lower() == _BEARER
        if not is_bearer and not sas.is_signature(header_value):
            text = "MalformedToken: the Authorization header must be 'SharedAccessSignature …' or 'Bearer …'."
            raise ServiceBusError(UNAUTHORIZED, text)
        credential = self.validate(header_value[len(_BEARER) :].strip() if is_bearer else header_value)
        if not any(_allows_http(permission, path, right) for permission in credential.permissions):
            raise missing_right(path, right)

    def log_in(self, name: str, key: str) -> ValidatedCredential | None:
        """Validate the name and key of a policy, as SASL PLAIN carries them. Return None if they do not match."""
        if not self.is_checking:
            return _EVERYTHING
        policies = (policy for policy in self._policies() if policy.name.lower() == name.lower())
        matching = (policy for policy in policies if _has_key(policy, key))
        permissions = tuple(Permission(policy.rights, policy.entity, policy.entity) for policy in matching)
        return ValidatedCredential(permissions) if permissions else None

    def validate(self, token: str) -> ValidatedCredential:
        """Validate a shared access signature or a JSON web token. Raises `ServiceBusError` (unauthorized)."""
        if sas.is_signature(token):
            return self._validate_signature(token)
        parts = token.split(".")
        if len(parts) != _JWT_PARTS or not all(parts):
            text = "MalformedToken: neither a shared access signature nor a JSON web token."
            raise ServiceBusError(UNAUTHORIZED, text)
        if not self.is_checking:
            return _EVERYTHING
        if self.jwt_validator is None:
            raise ServiceBusError(UNAUTHORIZED, "InvalidIssuer: there is no issuer here whose tokens are trusted.")
        return self.jwt_validator.validate(token)

    def _validate_signature(self, token: str) -> ValidatedCredential:
        if self.is_checking:
            return sas.validate(token, self._policies(), self.now())
        sas.parse_fields(token)  # in open mode, the fields must still be there
        return _EVERYTHING

    def _policies(self) -> Iterable[Policy]:
        return chain(self._namespace_policies, self._queue_policies())


def _allows_http(permission: Permission, path: str, right: Right) -> bool:
    # HTTP clients may sign the URL that they call instead of the queue: `queue/messages`, or a path below it.
    if path and f"{permission.scope}/".startswith(f"{path}/{_MESSAGES}/"):
        return bool(permission.rights & right) and permission.entity in ("", entity_of(path))
    return permission.allows(path, right)


def _has_key(policy: Policy, key: str) -> bool:
    # All keys are compared, each in constant time: the duration must not reveal which one was close.
    return sum(hmac.compare_digest(key.encode(), one.encode()) for one in policy.keys) > 0


def missing_right(path: str, right: Right) -> ServiceBusError:
    """Return the error for a client that lacks a right over a path."""
    text = f"Unauthorized access. '{right}' claim(s) are required to perform this operation. Resource: '{path or '/'}'."
    return ServiceBusError(UNAUTHORIZED, text)


UNCHECKED = Authorizer((), access=AccessMode.OPEN)
"""Accepts any text that has the form of a token."""
