"""The token issuer: signing keys, OpenID discovery, and tokens as Entra shapes them, or wrong on purpose."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
import uuid
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from servicebus_emulator.cloud import urls
from servicebus_emulator.cloud.definitions import IdentityDefinition
from servicebus_emulator.servicebus.access.entra import InvalidToken

FRONT_END_CLIENT_ID = "c0b7f1de-5a84-4e0f-8f0a-3b1d2f6e9a71"
"""The application through which the emulator's users sign in (`azp`)."""

OTHER_TENANT_ID = uuid.UUID("e3a5c9d1-47b2-4f86-9c0d-8a1f2b3c4d5e")
"""A tenant that is nobody's here."""

_USERS = uuid.UUID("0f4c1c5e-9f0a-5d27-8a55-d5f6f3f0a9b4")
_LIFETIME_SECONDS = 3600
_YEAR_SECONDS = 366 * 86_400

Offset = Annotated[int, Field(ge=-_YEAR_SECONDS, le=_YEAR_SECONDS)]
Claims = dict[str, JsonValue]


class TokenRequest(BaseModel):
    """What token to mint. Times are in seconds from now; a negative lifetime makes an expired token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = Field(min_length=1, max_length=256)
    """A name, which always gets the same object ID, or the object ID itself; with `app` that of a service principal."""
    app: bool = False
    """App-only, as a managed identity or a plug-in has it: no `scp`, but `idtyp`."""
    version: Literal["1.0", "2.0"] = "2.0"
    """`ver`, with the issuer and the client's claims that go with it."""
    roles: tuple[str, ...] = ()
    audience: str | None = None
    tenant: uuid.UUID | None = None
    issuer: str | None = None
    lifetime_seconds: Offset = _LIFETIME_SECONDS
    not_before_offset: Offset = 0
    claims: dict[str, JsonValue] = Field(default_factory=dict)
    """Claims to set, whatever they were; null takes a claim out."""
    forged: bool = False
    """Signed by a key that was never published, under the published key's ID."""
    unknown_kid: bool = False
    algorithm: Literal["RS256", "none", "HS256"] = "RS256"
    """HS256 signs with the public key as the secret: the classic confusion."""


class SigningKey:
    """An RSA key pair and the ID it is published under."""

    def __init__(self, kid: str | None = None, *, issuer: str | None = None) -> None:
        """`issuer`: the only one that signs with this key; None: each of those whose key set has it."""
        self.kid = kid or secrets.token_urlsafe(20)
        self.issuer = issuer

    @cached_property
    def private(self) -> RSAPrivateKey:
        """Made when it is first needed: that takes a tenth of a second, which nobody should wait for at start."""
        return generate_private_key(public_exponent=65537, key_size=2048)

    def published(self) -> dict[str, object]:
        """Its entry in the key set (RFC 7517), with the `issuer` by which Entra restricts one."""
        public = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        entry = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "n": public["n"], "e": public["e"]}
        return entry if self.issuer is None else entry | {"issuer": self.issuer}

    def public_pem(self) -> bytes:
        """The public key as anyone could write it down from the key set."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class Issuer:
    """Issues for every tenant with the same keys, as Entra does. `url` is the web server's own, without a slash."""

    def __init__(self, url: str, definition: IdentityDefinition) -> None:
        self._url = url
        self._definition = definition
        self._keys = [SigningKey()]
        self._forger = SigningKey(kid=self._keys[0].kid)
        self._others = SigningKey(issuer=self.v2(OTHER_TENANT_ID))

    @property
    def key(self) -> SigningKey:
        """The key that signs now."""
        return self._keys[0]

    @property
    def forgers_key(self) -> SigningKey:
        """A key that was never published, under the ID of the one that signs now."""
        return self._forger

    @property
    def others_key(self) -> SigningKey:
        """A key that is published for another tenant's issuer alone."""
        return self._others

    @property
    def worker_audience(self) -> str:
        """What a sender's token must be for."""
        return self._definition.worker_audience

    def v2(self, tenant: object) -> str:
        """The issuer of a tenant's version 2 tokens."""
        return urls.issuer_v2(self._url, tenant)

    def v1(self, tenant: object) -> str:
        """The issuer of a tenant's version 1 tokens; its slash is part of it."""
        return urls.issuer_v1(self._url, tenant)

    def discovery(self, issuer: str) -> dict[str, object]:
        """An issuer's OpenID discovery document (OpenID Connect Discovery 1.0, section 3)."""
        tenant_url = issuer.removesuffix("/").removesuffix("/v2.0")
        return {
            "issuer": issuer,
            "jwks_uri": f"{tenant_url}/discovery/v2.0/keys",
            "token_endpoint": f"{self._url}/emulator/token",
            "authorization_endpoint": f"{tenant_url}/oauth2/v2.0/authorize",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def key_set(self) -> dict[str, object]:
        """The published keys, the newest first, and last the one of another tenant's issuer."""
        return {"keys": [key.published() for key in (*self._keys, self._others)]}

    def restrict_keys(self, issuer: str | None) -> None:
        """Publish the keys for this issuer alone (`{tenantid}` stands for any tenant), or for all (None)."""
        for key in self._keys:
            key.issuer = issuer

    def rotate(self, *, keep_old: bool = True) -> None:
        """Sign with a new key from now on; publish the old ones on, or withdraw them."""
        new = SigningKey(issuer=self.key.issuer)
        self._keys = [new, *self._keys] if keep_old else [new]
        self._forger = SigningKey(kid=new.kid)

    def mint(self, wanted: TokenRequest) -> str:
        """A token as Entra issues them, but for what is asked to be wrong with it."""
        present = self.claims(wanted)
        key = self._forger if wanted.forged else self._keys[0]
        kid = secrets.token_urlsafe(20) if wanted.unknown_kid else key.kid
        if wanted.algorithm == "RS256":
            return self._signed(key, present, kid=kid)
        return _unsigned(wanted.algorithm, self._keys[0], present, kid=kid)

    def for_managed_identity(self, resource: str, lifetime_seconds: int) -> str:
        """The managed identity's token for a resource: app-only, of version 1, `aud` exactly the resource."""
        now, identity = int(time.time()), self._definition.managed_identity
        claims: Claims = {
            "aud": resource,
            "iss": self.v1(self._definition.tenant_id),
            "iat": now,
            "nbf": now,
            "exp": now + lifetime_seconds,
            "appid": str(identity.client_id),
            "appidacr": "2",
            "idtyp": "app",
            "oid": str(identity.object_id),
            "sub": str(identity.object_id),
            "tid": str(self._definition.tenant_id),
            "uti": secrets.token_urlsafe(16),
            "ver": "1.0",
        }
        return self._signed(self._keys[0], claims, kid=self._keys[0].kid)

    def verify(self, token: str) -> Mapping[str, object]:
        """The claims of a token that one of our keys signed and that is within its time. Raises `InvalidToken`."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = next((key for key in self._keys if key.kid == kid), None)
            if key is None:
                raise InvalidToken("signed by an unknown key")
            claims: Mapping[str, object] = jwt.decode(
                token,
                key.private.public_key(),
                algorithms=["RS256"],
                leeway=300,  # what Microsoft's own validators allow (TokenValidationParameters.DefaultClockSkew)
                options={"verify_aud": False, "require": ["exp"]},
            )
        except (jwt.PyJWTError, RecursionError) as error:  # a token nested deeply enough exhausts the JSON parser
            raise InvalidToken(str(error)) from error
        return claims

    def claims(self, wanted: TokenRequest) -> Claims:
        """The payload of the token."""
        now = int(time.time())
        tenant = str(wanted.tenant or self._definition.tenant_id)
        object_id = str(object_id_of(wanted.user))
        own_issuer = self.v1(tenant) if wanted.version == "1.0" else self.v2(tenant)
        roles: JsonValue = list(wanted.roles) or None
        common: Claims = {
            "aud": wanted.audience or self._definition.worker_audience,
            "iss": wanted.issuer or own_issuer,
            "iat": now,
            "nbf": now + wanted.not_before_offset,
            "exp": now + wanted.lifetime_seconds,
            "oid": object_id,
            "roles": roles,
            "tid": tenant,
            "uti": secrets.token_urlsafe(16),
            "ver": wanted.version,
        }
        claims = common | _client(wanted) | _subject(wanted, object_id) | wanted.claims
        return {name: value for name, value in claims.items() if value is not None}

    @staticmethod
    def _signed(key: SigningKey, claims: Claims, *, kid: str) -> str:
        # One layer below jwt.encode, which refuses to write claims of the wrong type: those are wanted too.
        return jwt.PyJWS().encode(json.dumps(claims).encode(), key.private, "RS256", headers={"kid": kid})


def _client(wanted: TokenRequest) -> Claims:
    """Through which application, and how that proved itself: not at all (0), or by a certificate or the like (2)."""
    names = ("appid", "appidacr") if wanted.version == "1.0" else ("azp", "azpacr")
    client = str(uuid.uuid5(_USERS, f"client of {wanted.user}")) if wanted.app else FRONT_END_CLIENT_ID
    return dict(zip(names, (client, "2" if wanted.app else "0"), strict=True))


def _subject(wanted: TokenRequest, object_id: str) -> Claims:
    """What tells users' and applications' tokens apart."""
    if wanted.app:
        return {"idtyp": "app", "sub": object_id}
    pairwise = _text(hashlib.sha256(object_id.encode()).digest())
    return {"name": wanted.user, "scp": "access_as_user", "sub": pairwise}


def object_id_of(user: str) -> uuid.UUID:
    """The object ID a user's name stands for; an object ID stands for itself."""
    try:
        return uuid.UUID(user)
    except ValueError:
        return uuid.uuid5(_USERS, user)


def _unsigned(algorithm: str, key: SigningKey, claims: Claims, *, kid: str) -> str:
    """A token that only a careless validator takes. By hand, because PyJWT rightly will not sign one."""
    header = {"typ": "JWT", "alg": algorithm, "kid": kid}
    signed = ".".join(_text(json.dumps(part).encode()) for part in (header, claims))
    confused = algorithm == "HS256"
    signature = hmac.digest(key.public_pem(), signed.encode(), "sha256") if confused else b""
    return f"{signed}.{_text(signature)}"


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
