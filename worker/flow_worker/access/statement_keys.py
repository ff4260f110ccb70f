"""The keys of the gateway's statements, on the curve P-256: the private one signs, the public ones verify.

A key's ID is its thumbprint (RFC 7638). Nobody assigns it, so the same key has the same ID on both sides, in every
format, and two keys never have the same one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt import PyJWTError
from jwt.algorithms import ECAlgorithm
from pydantic import JsonValue

from flow_contracts import strict_json

MAX_KEY_BYTES: Final = 64 * 1024
"""The largest file or variable with keys."""
MAX_PUBLIC_KEYS: Final = 32

_PEM: Final = re.compile(r"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----", re.DOTALL)
_PRIVATE_REMEDY: Final = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
_COORDINATE_BYTES: Final = 32


class BadKey(ValueError):
    """The text holds no usable key. The message completes "The key …" and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class StatementKey:
    """A public key that verifies statements."""

    kid: str
    public: ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key that signs statements."""

    kid: str
    private: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def verifying(self) -> StatementKey:
        """The public half."""
        return StatementKey(self.kid, self.private.public_key())


def new_signing_key() -> SigningKey:
    """Make a new key."""
    return _signing_key(ec.generate_private_key(ec.SECP256R1()))


def private_pem(key: SigningKey) -> bytes:
    """Return the private key in clear text, for its file."""
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private.private_bytes(serialization.Encoding.PEM, pkcs8, plain)


def public_jwks(keys: Iterable[StatementKey]) -> bytes:
    """Return the public keys as a JWK Set (RFC 7517, section 5)."""
    entries = [{**_members(key.public), "kid": key.kid, "use": "sig", "alg": "ES256"} for key in keys]
    return json.dumps({"keys": entries}, indent=2).encode()


def parse_signing_key(text: str) -> SigningKey:
    """Return the private key in a text: PEM (PKCS #8 or SEC 1) or a JWK. Raises `BadKey`."""
    text = _unescaped(text)
    if text.startswith("{"):
        return _signing_key(_from_jwk(_document(text)))
    try:
        private = serialization.load_pem_private_key(text.encode(), password=None)
    except TypeError:
        raise BadKey("is encrypted with a password; decrypt it with: openssl pkey") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey(f"is no private key in PEM or JWK; make one with: {_PRIVATE_REMEDY}") from None
    return _signing_key(private)


def parse_public_keys(text: str) -> dict[str, StatementKey]:
    """Return the public keys in a text, by their IDs: a JWK Set, a JWK, or PEM blocks. Raises `BadKey`."""
    text = _unescaped(text)
    found = _of_documents(text) if text.startswith("{") else [_of_pem(block) for block in _PEM.findall(text)]
    if not found:
        raise BadKey("text holds no public key; write a JWK Set, or the output of: openssl pkey -pubout")
    if len(found) > MAX_PUBLIC_KEYS:
        raise BadKey(f"text holds {len(found)} keys, more than {MAX_PUBLIC_KEYS}; remove those of earlier gateways")
    return {key.kid: key for key in found}


def _unescaped(text: str) -> str:
    """Return the text with real line breaks: a variable of one line holds a PEM with the two characters `\\n`."""
    if len(text) > MAX_KEY_BYTES:
        raise BadKey(f"text is longer than {MAX_KEY_BYTES} characters")
    text = text.strip().removeprefix("\ufeff").strip()
    return text.replace("\\r", "").replace("\\n", "\n") if text.startswith("-----") else text


def _of_documents(text: str) -> list[StatementKey]:
    document = _document(text)
    entries = document.get("keys", [document])
    if not isinstance(entries, list):
        raise BadKey("set has no list 'keys'")
    return [_public_key(_from_public_jwk(entry)) for entry in entries]


def _document(text: str) -> dict[str, JsonValue]:
    try:
        document = strict_json.parse(text.encode("utf-8", "surrogatepass"), max_depth=8)
    except strict_json.NotJson as error:
        raise BadKey(str(error)) from None
    if not isinstance(document, dict):
        raise BadKey("is no JSON object")
    return document


def _from_public_jwk(entry: JsonValue) -> object:
    if isinstance(entry, dict) and "d" in entry:
        raise BadKey("set holds a private key ('d'); leave the private key with the gateway")
    return _from_jwk(entry)


def _from_jwk(entry: JsonValue) -> object:
    if not isinstance(entry, dict) or entry.get("kty") != "EC" or entry.get("crv") != "P-256":
        raise BadKey("is no JWK with kty 'EC' and crv 'P-256'")
    if entry.get("use", "sig") != "sig" or entry.get("alg", "ES256") != "ES256":
        raise BadKey("is not for signatures by its 'use' or 'alg'")
    try:
        return ECAlgorithm.from_jwk({name: value for name, value in entry.items() if isinstance(value, str)})
    except (PyJWTError, ValueError, TypeError):
        raise BadKey("is no valid JWK of the curve P-256") from None


def _of_pem(block: str) -> StatementKey:
    if "PRIVATE" in block.split("\n", 1)[0]:
        raise BadKey("is a private one; leave it with the gateway, and set the output of: openssl pkey -pubout")
    try:
        return _public_key(serialization.load_pem_public_key(block.encode()))
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("is no public key in PEM; write the output of: openssl pkey -pubout") from None


def _signing_key(private: object) -> SigningKey:
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise BadKey(f"is no private key of the curve P-256; make one with: {_PRIVATE_REMEDY}")
    return SigningKey(_thumbprint(private.public_key()), private)


def _public_key(public: object) -> StatementKey:
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise BadKey("is no public key of the curve P-256")
    return StatementKey(_thumbprint(public), public)


def _members(public: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers = public.public_numbers()
    return {"crv": "P-256", "kty": "EC", "x": _coordinate(numbers.x), "y": _coordinate(numbers.y)}


def _coordinate(number: int) -> str:
    return _base64url(number.to_bytes(_COORDINATE_BYTES, "big"))


def _thumbprint(public: ec.EllipticCurvePublicKey) -> str:
    """RFC 7638, section 3: the required members in the order of their names, without spaces."""
    text = json.dumps(_members(public), sort_keys=True, separators=(",", ":"))
    return _base64url(hashlib.sha256(text.encode()).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
