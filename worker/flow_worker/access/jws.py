"""Signed tokens in compact form (RFC 7515, section 7.1), read more strictly than JSON and base64 libraries read.

Whatever two readers could read in two ways is no token here: duplicate members, padding, line breaks, other alphabets,
byte order marks.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pydantic import JsonValue

from flow_contracts import strict_json

MAX_CHARACTERS = 32_768
_MAX_DEPTH = 16
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadToken(ValueError):
    """Not a signed token that may be believed. The message says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A published key that signs tokens."""

    kid: str
    public: RSAPublicKey
    algorithm: str | None = None
    """The only one it signs by, if its issuer says so."""


@dataclass(frozen=True, slots=True)
class Jws:
    """A signed token that was read, no more: until `require_signature` returns, anybody may have made it up."""

    header: Mapping[str, JsonValue]
    payload: bytes = field(repr=False)
    _text: str = field(repr=False)

    def require_signature(self, key: SigningKey, algorithms: Collection[str]) -> None:
        """Raises `BadToken` unless `key` signed it, by one of these algorithms and by the key's own.

        The header names the algorithm but no key: `jku`, `x5u`, `x5c` and `jwk` are never looked at (RFC 8725, 3.10).
        """
        algorithm = self.header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in algorithms:
            raise BadToken(f"is not signed by {' or '.join(algorithms)}")
        if key.algorithm not in (None, algorithm):
            raise BadToken("is signed by another algorithm than its key is for")
        if "crit" in self.header:
            raise BadToken("demands an extension of its header ('crit')")
        try:
            jwt.PyJWS().decode_complete(self._text, key.public, algorithms=[algorithm])
        except (jwt.PyJWTError, ValueError, TypeError):
            raise BadToken("has a signature that does not hold") from None


def read(text: str) -> Jws:
    """Raises `BadToken` for what is no signed token with a JSON object for a header."""
    if len(text) > MAX_CHARACTERS:
        raise BadToken(f"is longer than {MAX_CHARACTERS} characters")
    parts = _COMPACT.fullmatch(text)
    if parts is None:
        raise BadToken("is not a signed JSON web token")
    header, payload, _ = (_decoded(part) for part in parts.groups())
    return Jws(members(header), payload, text)


def members(part: bytes) -> Mapping[str, JsonValue]:
    """A token's header or payload. Raises `BadToken` for what is no JSON object, or could be read in two ways."""
    if part.startswith(_BYTE_ORDER_MARK):
        raise BadToken("has a byte order mark")
    try:
        found = strict_json.parse(part, max_depth=_MAX_DEPTH)
    except strict_json.NotJson as error:
        raise BadToken(f"has a part that {error}") from None
    if not isinstance(found, dict):
        raise BadToken("has a part that is not a JSON object")
    return found


def _decoded(part: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise BadToken("is not a signed JSON web token") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != part.encode():
        raise BadToken("is not a signed JSON web token: it has bits to spare")
    return raw
