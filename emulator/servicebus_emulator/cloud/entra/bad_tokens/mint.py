"""Builds tokens that no JWT library would: headers, payloads and signatures are set freely."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256
from pydantic import JsonValue

from servicebus_emulator.cloud.entra.issuer import Issuer, SigningKey

Members = Mapping[str, JsonValue]
Tokens = dict[str, str]


@dataclass(frozen=True, slots=True)
class Mint:
    """Builds variants of one valid token. In every method the value None removes a member."""

    issuer: Issuer
    valid_claims: Members
    """The payload of the valid token."""

    @property
    def valid_header(self) -> Members:
        """The header of the valid token."""
        return {"typ": "JWT", "alg": "RS256", "kid": self.issuer.key.kid}

    def with_claims(self, **claims: JsonValue) -> str:
        """Return a correctly signed token with these claims changed."""
        return self.signed(encode(self.valid_header), encode(changed(self.valid_claims, claims)))

    def with_header(self, key: SigningKey | None = None, **members: JsonValue) -> str:
        """Return a correctly signed token with these header members changed; `key` replaces the signing key."""
        return self.signed(self.signing_input(**members), key=key)

    def signing_input(self, **members: JsonValue) -> str:
        """Return header and payload, joined for signing, with these header members changed."""
        return f"{encode(changed(self.valid_header, members))}.{encode(self.valid_claims)}"

    def with_payload_bytes(self, payload: bytes) -> str:
        """Return a correctly signed token whose payload is exactly these bytes."""
        return self.signed(encode(self.valid_header), encode(payload))

    def with_header_bytes(self, header: bytes) -> str:
        """Return a correctly signed token whose header is exactly these bytes."""
        return self.signed(encode(header), encode(self.valid_claims))

    def with_literal(self, name: str, literal: str) -> str:
        """Return a correctly signed token with one claim as a JSON literal that no JSON library writes."""
        rest = json.dumps(changed(self.valid_claims, {name: None}))
        return self.with_payload_bytes(f'{{"{name}": {literal}, {rest[1:]}'.encode())

    def signed(self, *parts: str, key: SigningKey | None = None) -> str:
        """Join the parts and append the RS256 signature over them."""
        signing_input = ".".join(parts)
        private = (key or self.issuer.key).private
        return f"{signing_input}.{encode(private.sign(signing_input.encode(), padding.PKCS1v15(), SHA256()))}"


def changed(members: Members, changes: Members) -> Members:
    """Return the members with the changes applied; None removes a member."""
    return {name: value for name, value in {**members, **changes}.items() if value is not None}


def encode(part: bytes | Members) -> str:
    """Encode one part of a token in base64url without padding (RFC 7515, section 2)."""
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
