"""Signed tokens in compact form (RFC 7515, section 7.1), parsed more strictly than JSON and base64 libraries do.

Two parsers must never read one token in two ways. Otherwise an attacker could show one reading to the signer and the
other to the worker. So this module refuses duplicate members, padding, line breaks, other base64 alphabets and byte
order marks.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm
from pydantic import JsonValue

from flow_contracts import strict_json

MAX_CHARACTERS = 32_768
ES256: Final = "ES256"
_es256 = ECAlgorithm(ECAlgorithm.SHA256)
_MAX_DEPTH = 16
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TYPES = frozenset({"jwt", "at+jwt"})
"""`typ` of an access token: Entra writes JWT, RFC 9068 at+jwt. Logout, security-event and proof tokens have others."""
_FOREIGN_MEMBERS = ("cty", "enc", "zip", "b64")
"""Header members of nested tokens, of encrypted tokens, and of signatures over unencoded payloads (RFC 7797)."""


class BadToken(ValueError):
    """The text is not a validly signed token. The message completes "The claim …" and quotes nothing of the token."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key that an issuer publishes for its signatures."""

    kid: str
    public: RSAPublicKey
    algorithm: str | None = None
    """The only algorithm that the key is for, if its issuer names one."""
    client_id: str | None = None
    """The only application whose tokens the key signs; None for a key that the issuer publishes for all."""


@dataclass(frozen=True, slots=True)
class Jws:
    """A parsed token. It is unproven until `require_signature` returns: anybody can have written it."""

    header: Mapping[str, JsonValue]
    payload: bytes = field(repr=False)
    _signature: bytes = field(repr=False)
    _text: str = field(repr=False)

    def require_access_token_type(self) -> None:
        """Require the header of a plain signed access token. Raises `BadToken`."""
        self._require_type(self.header.get("typ", "JWT"), _TYPES, "access token")

    def require_type(self, kind: str, name: str) -> None:
        """Require the header of a plain signed token of this type, called `name` in messages. Raises `BadToken`."""
        self._require_type(self.header.get("typ"), {kind}, name)

    def _require_type(self, kind: JsonValue, kinds: Collection[str], name: str) -> None:
        """A type is a media type, so its case and `application/` do not matter (RFC 7515, section 4.1.9)."""
        # `isascii` first: some other letters become ASCII letters in lower case.
        if not isinstance(kind, str) or not kind.isascii() or kind.lower().removeprefix("application/") not in kinds:
            raise BadToken(f"is no {name} by its type ('typ')")
        for member in _FOREIGN_MEMBERS:
            if member in self.header:
                raise BadToken(f"has a header that no {name} has ('{member}')")

    def require_signature(self, key: SigningKey, algorithms: Collection[str]) -> None:
        """Require a signature by `key`, with one of these algorithms and with the key's own. Raises `BadToken`.

        The header names the algorithm, never the key. The method does not read `jku`, `x5u`, `x5c` and `jwk`: with them
        the sender would choose the key (RFC 8725, section 3.10).
        """
        algorithm = self.header.get("alg")
        # Checked before PyJWT reads it: `none`, and HMAC with the public key as the secret, are the classic forgeries.
        if not isinstance(algorithm, str) or algorithm not in algorithms:
            raise BadToken(f"is not signed with {' or '.join(algorithms)}")
        if key.algorithm not in (None, algorithm):
            raise BadToken("is signed with another algorithm than its key is for")
        self._require_no_extension()
        try:
            jwt.PyJWS().decode_complete(self._text, key.public, algorithms=[algorithm])
        except (jwt.PyJWTError, ValueError, TypeError):
            raise BadToken("has an invalid signature") from None

    def require_es256_signature(self, public: EllipticCurvePublicKey) -> None:
        """Require a signature by this key of the curve P-256. Raises `BadToken`.

        PyJWT's own reader would decode the token once more, which takes twice as long as the signature.
        """
        if self.header.get("alg") != ES256:
            raise BadToken(f"is not signed with {ES256}")
        self._require_no_extension()
        if not _es256.verify(self._text.rsplit(".", 1)[0].encode(), public, self._signature):
            raise BadToken("has an invalid signature")

    def _require_no_extension(self) -> None:
        """RFC 7515, section 4.1.11: a reader must refuse critical extensions that it does not implement."""
        if "crit" in self.header:
            raise BadToken("requires an extension of its header ('crit')")


def read(text: str) -> Jws:
    """Parse a token without proving it. Raises `BadToken` unless it is in compact form with a JSON object as header."""
    if len(text) > MAX_CHARACTERS:
        raise BadToken(f"is longer than {MAX_CHARACTERS} characters")
    parts = _COMPACT.fullmatch(text)
    if parts is None:
        raise BadToken("is not a signed JSON web token")
    header, payload, signature = (_decoded(part) for part in parts.groups())
    return Jws(members(header), payload, signature, text)


def members(part: bytes) -> Mapping[str, JsonValue]:
    """Return the members of a token's header or payload. Raises `BadToken` unless it is one unambiguous JSON object."""
    if part.startswith(_BYTE_ORDER_MARK):
        raise BadToken("has a byte order mark")
    try:
        document = strict_json.parse(part, max_depth=_MAX_DEPTH)
    except strict_json.NotJson as error:
        raise BadToken(f"has a part that {error}") from None
    if not isinstance(document, dict):
        raise BadToken("has a part that is not a JSON object")
    return document


def _decoded(part: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise BadToken("is not a signed JSON web token") from None
    # The last character can carry bits that decoding drops: several texts would be one token, with one signature.
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != part.encode():
        raise BadToken("is not a signed JSON web token: its base64 has unused bits set")
    return raw
