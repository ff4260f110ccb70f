"""The namespace's gate: which tokens are good, and for what."""

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


class AccessMode(StrEnum):
    """Whether tokens are checked, or only have to look like tokens."""

    CHECKED = "checked"
    OPEN = "open"


class JwtValidator(Protocol):
    """Whoever knows what a JSON web token proves."""

    def examine(self, token: str) -> ValidatedCredential:
        """Raises `ServiceBusError` (unauthorized) for what is wrong with it."""
        ...


class Authorizer:
    """Knows the policies, and whom to ask about JSON web tokens (`bearers`; None: they are refused).

    `policies` are the namespace's, `of_queues` gives those that the queues have just now.
    `clock`: real seconds since the epoch, because clients take their tokens' times from theirs.
    """

    def __init__(
        self,
        policies: Iterable[Policy] = (DEVELOPMENT_POLICY,),
        *,
        of_queues: Callable[[], Iterable[Policy]] = tuple,
        access: AccessMode = AccessMode.CHECKED,
        bearers: JwtValidator | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.checks = access is AccessMode.CHECKED
        self.bearers = bearers
        self.now = clock
        self._of_namespace = tuple(policies)
        self._of_queues = of_queues

    def _policies(self) -> Iterable[Policy]:
        return chain(self._of_namespace, self._of_queues())

    def authorize(self, header_value: str | None, entity: str, right: Right) -> None:
        """Raises `ServiceBusError` (unauthorized) unless the `Authorization` header gives this right, or one of these.

        `entity` is a queue's name, in any case; empty: the namespace.
        """
        if header_value is None:
            raise ServiceBusError(UNAUTHORIZED, "MissingToken: the Authorization header is missing.")
        given, path = header_value.strip(), entity.strip("/").lower()
        is_bearer = given[: len(_BEARER)].lower() == _BEARER
        if not is_bearer and not sas.is_signature(given):
            text = "MalformedToken: the Authorization header must be 'SharedAccessSignature …' or 'Bearer …'."
            raise ServiceBusError(UNAUTHORIZED, text)
        proof = self.examine(given[len(_BEARER) :].strip() if is_bearer else given)
        if not any(self._lets_in(path, grant, right) for grant in proof.grants):
            raise missing_right(path, right)

    def log_in(self, name: str, key: str) -> ValidatedCredential | None:
        """What a policy's name and key prove, as given by SASL PLAIN; None: nothing."""
        if not self.checks:
            return ValidatedCredential((Permission(ALL_RIGHTS),))
        known = (policy for policy in self._policies() if policy.name.lower() == name.lower())
        grants = tuple(Permission(one.rights, one.entity, one.entity) for one in known if _is_key_of(one, key))
        return ValidatedCredential(grants) if grants else None

    def examine(self, token: str) -> ValidatedCredential:
        """What a token proves. Raises `ServiceBusError` (unauthorized) for what is wrong with it."""
        if sas.is_signature(token):
            return sas.examine(token, self._policies(), self.now()) if self.checks else _any(sas.fields(token))
        parts = token.split(".")
        if len(parts) != 3 or not all(parts):
            text = "MalformedToken: neither a shared access signature nor a JSON web token."
            raise ServiceBusError(UNAUTHORIZED, text)
        if not self.checks:
            return _any(parts)
        if self.bearers is None:
            raise ServiceBusError(UNAUTHORIZED, "InvalidIssuer: there is no issuer here whose tokens are trusted.")
        return self.bearers.examine(token)

    @staticmethod
    def _lets_in(path: str, grant: Permission, right: Right) -> bool:
        """Who sends by REST may sign `queue/messages`, or what is below it, instead of the queue."""
        if path and f"{grant.scope}/".startswith(f"{path}/{_MESSAGES}/"):
            return bool(grant.rights & right) and grant.entity in ("", entity_of(path))
        return grant.allows(path, right)


def _is_key_of(policy: Policy, key: str) -> bool:
    return sum(hmac.compare_digest(key.encode(), one.encode()) for one in policy.keys) > 0


def missing_right(path: str, right: Right) -> ServiceBusError:
    """The refusal of whoever lacks a right."""
    text = f"Unauthorized access. '{right}' claim(s) are required to perform this operation. Resource: '{path or '/'}'."
    return ServiceBusError(UNAUTHORIZED, text)


def _any(_: object) -> ValidatedCredential:
    """A token that has its parts is good for everything."""
    return ValidatedCredential((Permission(ALL_RIGHTS),))


UNCHECKED = Authorizer((), access=AccessMode.OPEN)
"""Takes any token that has the form of one."""
