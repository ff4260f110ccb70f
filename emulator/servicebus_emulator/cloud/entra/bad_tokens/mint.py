"""Puts tokens together from parts that no library would: headers, payloads and signatures as they are wanted."""

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
    """Makes tokens out of one that is right, each time with something changed. None takes a member out."""

    issuer: Issuer
    right: Members
    """The payload with nothing wrong in it."""

    @property
    def header(self) -> Members:
        """The header with nothing wrong in it."""
        return {"typ": "JWT", "alg": "RS256", "kid": self.issuer.key.kid}

    def claiming(self, **claims: JsonValue) -> str:
        """With these claims instead, rightly signed."""
        return self.signed(text(self.header), text(changed(self.right, claims)))

    def headed(self, key: SigningKey | None = None, **members: JsonValue) -> str:
        """With these header members instead, rightly signed (by another key, if one is given)."""
        return self.signed(self.unsigned(**members), key=key)

    def unsigned(self, **members: JsonValue) -> str:
        """What is signed, with these header members instead."""
        return f"{text(changed(self.header, members))}.{text(self.right)}"

    def with_payload(self, payload: bytes) -> str:
        """With these very bytes for a payload, rightly signed."""
        return self.signed(text(self.header), text(payload))

    def with_header(self, header: bytes) -> str:
        """With these very bytes for a header, rightly signed."""
        return self.signed(text(header), text(self.right))

    def with_literal(self, name: str, literal: str) -> str:
        """With a claim as no JSON library would write it."""
        rest = json.dumps(changed(self.right, {name: None}))
        return self.with_payload(f'{{"{name}": {literal}, {rest[1:]}'.encode())

    def signed(self, *parts: str, key: SigningKey | None = None) -> str:
        """These parts and the RS256 signature over them."""
        signing_input = ".".join(parts)
        private = (key or self.issuer.key).private
        return f"{signing_input}.{text(private.sign(signing_input.encode(), padding.PKCS1v15(), SHA256()))}"


def changed(members: Members, changes: Members) -> Members:
    """The members with the changes; what is None is taken out."""
    return {name: value for name, value in {**members, **changes}.items() if value is not None}


def text(part: bytes | Members) -> str:
    """A part of a token: base64url without padding (RFC 7515, section 2)."""
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
