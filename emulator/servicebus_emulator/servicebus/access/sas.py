"""Shared access signatures: `SharedAccessSignature sr=<resource>&sig=<signature>&se=<expiry>&skn=<policy>`.

Source: Microsoft Learn, "Service Bus access control with Shared Access Signatures", "Generate a SAS token": the
signature is HMAC-SHA256 with the policy's key over the URL-encoded resource, a line feed and the expiry.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterable
from urllib.parse import unquote, unquote_plus

from servicebus_emulator.servicebus.access.permissions import Permission, ValidatedCredential, covers, path_of
from servicebus_emulator.servicebus.access.policies import MAX_CHARACTERS, Policy
from servicebus_emulator.servicebus.errors import UNAUTHORIZED, ServiceBusError

SCHEME = "SharedAccessSignature "
_FIELDS = ("sr", "sig", "se", "skn")
_EXPIRY_DIGITS = 18
_ESCAPE = re.compile("%[0-9a-fA-F]{2}")


def is_signature(token: str) -> bool:
    """Whether a token is of this kind; clients say `jwt` of it, too."""
    return token[: len(SCHEME)].lower() == SCHEME.lower()


def fields(token: str) -> dict[str, str]:
    """Its four fields, still encoded. Raises `ServiceBusError` (unauthorized), naming the one that is missing."""
    found = dict(part.partition("=")[::2] for part in token[len(SCHEME) :].strip().split("&"))
    for name in _FIELDS:
        if not found.get(name):
            raise ServiceBusError(UNAUTHORIZED, f"MalformedToken: the signature's field '{name}' is missing.")
    return found


def examine(token: str, policies: Iterable[Policy], now: float) -> ValidatedCredential:
    """What the signature proves. Raises `ServiceBusError` (unauthorized) for what is wrong with it."""
    given = fields(token)
    resource, name = path_of(unquote(given["sr"])), unquote_plus(given["skn"])
    known = [one for one in policies if one.name.lower() == name.lower() and covers(one.entity, resource)]
    if not known:
        at = f"for '{resource[:MAX_CHARACTERS]}'" if resource else "for the namespace"
        raise ServiceBusError(
            UNAUTHORIZED, f"InvalidSignature: there is no policy '{name[:MAX_CHARACTERS]}' {at} ('skn')."
        )
    policy = next((one for one in known if _signed_by(one, given)), None)
    if policy is None:
        text = f"InvalidSignature: The token has an invalid signature: '{name}' has another key ('sig')."
        raise ServiceBusError(UNAUTHORIZED, text)
    expires_at = _expiry(given["se"])
    if expires_at <= now:
        text = f"ExpiredToken: The token expired {now - expires_at:.0f} seconds ago ('se'={expires_at})."
        raise ServiceBusError(UNAUTHORIZED, text)
    return ValidatedCredential((Permission(policy.rights, resource, policy.entity),), expires_at, resource)


def _expiry(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _EXPIRY_DIGITS):
        raise ServiceBusError(UNAUTHORIZED, "MalformedToken: 'se' must be whole seconds since 1970.")
    return int(text)


def _signed_by(policy: Policy, given: dict[str, str]) -> bool:
    """Compared in constant time, every possibility: how long it takes says nothing of the key."""
    shown = unquote(given["sig"]).encode(errors="replace")
    expected = [
        base64.b64encode(hmac.digest(key.encode(), f"{resource}\n{given['se']}".encode(errors="replace"), "sha256"))
        for key in policy.keys
        for resource in _spellings(given["sr"])
    ]
    return sum(hmac.compare_digest(shown, one) for one in expected) > 0


def _spellings(resource: str) -> set[str]:
    """Some sign `%3a` and send `%3A`, or the other way round."""
    lower = _ESCAPE.sub(lambda escape: escape[0].lower(), resource)
    return {resource, lower, _ESCAPE.sub(lambda escape: escape[0].upper(), resource)}
