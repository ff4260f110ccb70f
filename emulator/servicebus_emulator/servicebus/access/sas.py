"""Shared access signatures: `SharedAccessSignature sr=<resource>&sig=<signature>&se=<expiry>&skn=<policy>`.

The signature is HMAC-SHA256 with the policy's key over the URL-encoded resource, a line feed and the expiry. Source:
Microsoft Learn, "Service Bus access control with Shared Access Signatures", "Generate a SAS token".
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
_MAX_EXPIRY_DIGITS = 18
_ESCAPE = re.compile("%[0-9a-fA-F]{2}")


def is_signature(token: str) -> bool:
    """Return True if the token is a shared access signature.

    The text decides and not the type that the client states: the Python SDK calls a signature a `jwt`, too.
    """
    return token[: len(SCHEME)].lower() == SCHEME.lower()


def parse_fields(token: str) -> dict[str, str]:
    """Return the four fields, still URL-encoded. Raises `ServiceBusError` (unauthorized) for a missing one."""
    fields = dict(part.partition("=")[::2] for part in token[len(SCHEME) :].strip().split("&"))
    for name in _FIELDS:
        if not fields.get(name):
            raise ServiceBusError(UNAUTHORIZED, f"MalformedToken: the signature's field '{name}' is missing.")
    return fields


def validate(token: str, policies: Iterable[Policy], now: float) -> ValidatedCredential:
    """Return the content of a valid signature. Raises `ServiceBusError` (unauthorized) for an invalid one."""
    fields = parse_fields(token)
    resource = path_of(unquote(fields["sr"]))
    policy = _signing_policy(fields, resource, policies)
    expires_at = _expiry(fields["se"])
    if expires_at <= now:
        text = f"ExpiredToken: The token expired {now - expires_at:.0f} seconds ago ('se'={expires_at})."
        raise ServiceBusError(UNAUTHORIZED, text)
    return ValidatedCredential((Permission(policy.rights, resource, policy.entity),), expires_at, resource)


def _signing_policy(fields: dict[str, str], resource: str, policies: Iterable[Policy]) -> Policy:
    name = unquote_plus(fields["skn"])
    # The namespace and each of its queues may have a policy of this name, with different keys.
    candidates = [
        policy for policy in policies if policy.name.lower() == name.lower() and covers(policy.entity, resource)
    ]
    if not candidates:
        scope = f"for '{resource[:MAX_CHARACTERS]}'" if resource else "for the namespace"
        text = f"InvalidSignature: there is no policy '{name[:MAX_CHARACTERS]}' {scope} ('skn')."
        raise ServiceBusError(UNAUTHORIZED, text)
    policy = next((candidate for candidate in candidates if _is_signed_by(candidate, fields)), None)
    if policy is None:
        text = f"InvalidSignature: The token has an invalid signature: '{name}' has another key ('sig')."
        raise ServiceBusError(UNAUTHORIZED, text)
    return policy


def _expiry(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_EXPIRY_DIGITS):
        raise ServiceBusError(UNAUTHORIZED, "MalformedToken: 'se' must be whole seconds since 1970.")
    return int(text)


def _is_signed_by(policy: Policy, fields: dict[str, str]) -> bool:
    signature = unquote(fields["sig"]).encode(errors="replace")
    expected = [
        base64.b64encode(hmac.digest(key.encode(), f"{resource}\n{fields['se']}".encode(errors="replace"), "sha256"))
        for key in policy.keys
        for resource in _spellings(fields["sr"])
    ]
    # Every candidate is compared, each in constant time: the duration must not reveal which one was close.
    return sum(hmac.compare_digest(signature, one) for one in expected) > 0


def _spellings(resource: str) -> set[str]:
    # Clients sign the encoded resource, but some sign `%3a` and send `%3A`, or the reverse.
    lower = _ESCAPE.sub(lambda escape: escape[0].lower(), resource)
    return {resource, lower, _ESCAPE.sub(lambda escape: escape[0].upper(), resource)}
