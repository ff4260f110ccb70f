"""The rights of one connection, from its login and from the tokens that the client put to `$cbs`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from servicebus_emulator.servicebus.access.authorizer import Authorizer, missing_right
from servicebus_emulator.servicebus.access.permissions import ValidatedCredential, covers, path_of
from servicebus_emulator.servicebus.access.policies import Right
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, RESOURCE_LIMIT_EXCEEDED, UNAUTHORIZED, ServiceBusError

MAX_AUDIENCES = 1000
"""The maximum number of audiences for each connection. Clients put one token for each entity."""
MAX_AUDIENCE_CHARACTERS = 2048
_MAX_TIMER_SECONDS = 86_400.0
"""The longest timer. The machine's clock may be set while it runs, so the remaining time is computed again then."""


class ConnectionRights:
    """The credentials of one connection.

    `on_expiry`: called when a token has expired without a replacement, because links may have lost their right.
    """

    def __init__(self, authorizer: Authorizer, on_expiry: Callable[[], None]) -> None:
        self._authorizer = authorizer
        self._on_expiry = on_expiry
        self._by_audience: dict[str, ValidatedCredential] = {}
        self._login = ValidatedCredential(())
        self._timer: asyncio.TimerHandle | None = None
        self.is_authenticated = not authorizer.is_checking
        """True once the client has shown a valid credential; it stays true when that expires."""

    def log_in(self, name: str, key: str) -> bool:
        """Log in with the name and key of a policy for the life of the connection. Return True if they match."""
        credential = self._authorizer.log_in(name, key)
        if credential is not None:
            self._login, self.is_authenticated = credential, True
        return credential is not None

    def put_token(self, audience: str, token: str) -> None:
        """Validate a token and store it for an audience; it replaces the previous one. Raises `ServiceBusError`.

        An invalid token does not replace a valid one.
        """
        if len(audience) > MAX_AUDIENCE_CHARACTERS:
            raise ServiceBusError(ARGUMENT_ERROR, f"The audience is longer than {MAX_AUDIENCE_CHARACTERS} characters.")
        credential, path = self._authorizer.validate(token), path_of(audience)
        if not self._authorizer.is_checking:
            return
        if not covers(credential.resource, path):
            text = f"the token is for '{credential.resource}' ('sr'), not for '{path or '/'}' ('name')."
            raise ServiceBusError(UNAUTHORIZED, f"InvalidAudience: {text}")
        if path not in self._by_audience and len(self._by_audience) >= MAX_AUDIENCES:
            text = f"There are tokens for {MAX_AUDIENCES} audiences, the most that a connection may have."
            raise ServiceBusError(RESOURCE_LIMIT_EXCEEDED, text)
        self._by_audience[path], self.is_authenticated = credential, True
        self._schedule_expiry()

    def allows(self, path: str, right: Right) -> bool:
        """Return True if a valid credential gives one of the rights over the path.

        `path` is in lower case, without slashes around it. A token counts only for paths below its audience.
        """
        if not self._authorizer.is_checking:
            return True
        now = self._authorizer.now()
        tokens = (credential for audience, credential in self._by_audience.items() if covers(audience, path))
        # The expiry is checked here as well as by the timer, which may be late.
        valid = (self._login, *(credential for credential in tokens if credential.expires_at > now))
        return any(permission.allows(path, right) for credential in valid for permission in credential.permissions)

    def require(self, path: str, right: Right) -> None:
        """Raise `ServiceBusError` (unauthorized) unless `allows`."""
        if not self.allows(path, right):
            raise missing_right(path, right)

    def close(self) -> None:
        """Stop the expiry timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule_expiry(self) -> None:
        self.close()
        if self._by_audience:
            soonest = min(grant.expires_at for grant in self._by_audience.values()) - self._authorizer.now()
            delay = min(max(soonest, 0), _MAX_TIMER_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        now, before = self._authorizer.now(), len(self._by_audience)
        self._by_audience = {audience: grant for audience, grant in self._by_audience.items() if grant.expires_at > now}
        self._schedule_expiry()
        if len(self._by_audience) < before:
            self._on_expiry()
