"""The permissions that a credential carries: rights over a part of the namespace, until the credential expires."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from servicebus_emulator.servicebus.access.policies import Right

_SCHEME_AND_HOST = re.compile(r"(?:[a-z][a-z0-9+.-]*://)[^/?#]*|[^/?#]*[.:][^/?#]*|localhost(?=[/?#]|$)", re.IGNORECASE)
"""The part of a URI before its path. Some clients leave out the scheme."""


def path_of(uri: str) -> str:
    """Return the path of a resource URI in the form for comparing entities: lower case, no slashes around it.

    The function ignores the host, because clients reach one emulator under several names.
    """
    prefix = _SCHEME_AND_HOST.match(uri)
    path = uri[prefix.end() :] if prefix else uri
    return re.split("[?#]", path, maxsplit=1)[0].strip("/").lower()


def covers(scope: str, path: str) -> bool:
    """Return True if the path is the scope or below it, compared by whole segments. An empty scope covers all."""
    return scope in ("", path) or path.startswith(f"{scope}/")


def entity_of(path: str) -> str:
    """Return the queue that a path belongs to: a segment that starts with `$` belongs to the queue before it."""
    return path.partition("/$")[0]


@dataclass(frozen=True, slots=True)
class Permission:
    """Rights over every path below `scope`.

    `entity` limits the permission to the paths of one queue; the empty text means no limit.
    """

    rights: Right
    scope: str = ""
    entity: str = ""

    def allows(self, path: str, right: Right) -> bool:
        """Return True if the permission gives one of the rights over the path."""
        return bool(self.rights & right) and covers(self.scope, path) and self.entity in ("", entity_of(path))


@dataclass(frozen=True, slots=True)
class ValidatedCredential:
    """The content of a valid token, or of a valid login.

    `expires_at`: seconds since the epoch. `resource`: the path that the token was issued for; the empty text means the
    namespace.
    """

    permissions: tuple[Permission, ...]
    expires_at: float = math.inf
    resource: str = ""
