"""What a token proves: rights over a part of the namespace, until it expires."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from servicebus_emulator.servicebus.access.policies import Right

_URI = re.compile(r"(?:[a-z][a-z0-9+.-]*://)[^/?#]*|[^/?#]*[.:][^/?#]*|localhost(?=[/?#]|$)", re.IGNORECASE)
"""The part before the path: scheme and host; some clients leave out the scheme."""


def path_of(uri: str) -> str:
    """The path of a resource's URI, as entities are compared: lower case, without slashes around it.

    The host is ignored: clients know one emulator by many names.
    """
    host = _URI.match(uri)
    path = uri[host.end() :] if host else uri
    return re.split("[?#]", path, maxsplit=1)[0].strip("/").lower()


def covers(scope: str, path: str) -> bool:
    """Whether a path is the scope or below it, by whole segments. The empty scope is the namespace."""
    return scope in ("", path) or path.startswith(f"{scope}/")


def entity_of(path: str) -> str:
    """The queue that a path belongs to: what follows a `$` in front of a segment is of the queue before it."""
    return path.partition("/$")[0]


@dataclass(frozen=True, slots=True)
class Permission:
    """Rights over what is below `scope`. `entity`: only as far as it belongs to this queue; empty: to any."""

    rights: Right
    scope: str = ""
    entity: str = ""

    def allows(self, path: str, right: Right) -> bool:
        """Whether it gives one of these rights over the path."""
        return bool(self.rights & right) and covers(self.scope, path) and self.entity in ("", entity_of(path))


@dataclass(frozen=True, slots=True)
class ValidatedCredential:
    """What a valid token says. `expires_at` in seconds since the epoch."""

    grants: tuple[Permission, ...]
    expires_at: float = math.inf
    resource: str = ""
    """The path that the token was made out for; empty: the namespace."""
