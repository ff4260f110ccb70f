"""What one connection may do, by the tokens that it put to `$cbs`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from servicebus_emulator.servicebus.access.authorizer import Authorizer, missing_right
from servicebus_emulator.servicebus.access.permissions import ValidatedCredential, covers, path_of
from servicebus_emulator.servicebus.access.policies import Right
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, RESOURCE_LIMIT_EXCEEDED, UNAUTHORIZED, ServiceBusError

MAX_AUDIENCES = 1000
"""For each connection: clients put one token for each entity."""
MAX_AUDIENCE_CHARACTERS = 2048
_MAX_WAIT_SECONDS = 86_400.0


class ConnectionRights:
    """`lapsed` is called when a token has expired without another in its place: links may have lost their right."""

    def __init__(self, authorizer: Authorizer, lapsed: Callable[[], None]) -> None:
        self._authorizer = authorizer
        self._lapsed = lapsed
        self._proofs: dict[str, ValidatedCredential] = {}
        self._login = ValidatedCredential(())
        self._timer: asyncio.TimerHandle | None = None
        self.proven = not authorizer.checks
        """Whether there ever was a good token, or a login."""

    def log_in(self, name: str, key: str) -> bool:
        """Take a policy's name and key instead of tokens, for as long as the connection lasts; whether they fit."""
        proof = self._authorizer.log_in(name, key)
        if proof is not None:
            self._login, self.proven = proof, True
        return proof is not None

    def put(self, audience: str, token: str) -> None:
        """Take a token for an audience; it replaces the one before. Raises `ServiceBusError`: what is wrong with it."""
        if len(audience) > MAX_AUDIENCE_CHARACTERS:
            raise ServiceBusError(ARGUMENT_ERROR, f"The audience is longer than {MAX_AUDIENCE_CHARACTERS} characters.")
        proof, path = self._authorizer.examine(token), path_of(audience)
        if not self._authorizer.checks:
            return
        if not covers(proof.resource, path):
            text = f"InvalidAudience: the token is for '{proof.resource}' ('sr'), not for '{path or '/'}' ('name')."
            raise ServiceBusError(UNAUTHORIZED, text)
        if path not in self._proofs and len(self._proofs) >= MAX_AUDIENCES:
            text = f"There are tokens for {MAX_AUDIENCES} audiences, the most that a connection may have."
            raise ServiceBusError(RESOURCE_LIMIT_EXCEEDED, text)
        self._proofs[path], self.proven = proof, True
        self._schedule()

    def allow(self, path: str, right: Right) -> bool:
        """Whether a token gives one of these rights over a path, which is in lower case, without slashes around it."""
        if not self._authorizer.checks:
            return True
        now = self._authorizer.now()
        tokens = (proof for audience, proof in self._proofs.items() if covers(audience, path))
        valid = (self._login, *(proof for proof in tokens if proof.expires_at > now))
        return any(grant.allows(path, right) for proof in valid for grant in proof.grants)

    def require(self, path: str, right: Right) -> None:
        """Raises `ServiceBusError` (unauthorized) unless `allow`."""
        if not self.allow(path, right):
            raise missing_right(path, right)

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self.close()
        if self._proofs:
            soonest = min(proof.expires_at for proof in self._proofs.values()) - self._authorizer.now()
            pause = min(max(soonest, 0), _MAX_WAIT_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(pause, self._lapse)

    def _lapse(self) -> None:
        now, before = self._authorizer.now(), len(self._proofs)
        self._proofs = {audience: proof for audience, proof in self._proofs.items() if proof.expires_at > now}
        self._schedule()
        if len(self._proofs) < before:
            self._lapsed()
