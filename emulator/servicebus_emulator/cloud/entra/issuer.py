"""The token issuer: signing keys, OpenID discovery, and tokens in Entra's shape, valid or deliberately invalid."""

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
from typing import Annotated, Literal, assert_never
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from servicebus_emulator.cloud import urls
from servicebus_emulator.cloud.entra.definitions import IdentityDefinition
from servicebus_emulator.servicebus.access.entra import InvalidToken

FRONT_END_CLIENT_ID = "c0b7f1de-5a84-4e0f-8f0a-3b1d2f6e9a71"
"""The client ID of the application that the emulator's users sign in with (`azp`)."""

OTHER_TENANT_ID = uuid.UUID("e3a5c9d1-47b2-4f86-9c0d-8a1f2b3c4d5e")
"""A tenant that no configuration trusts."""

_USERS = uuid.UUID("0f4c1c5e-9f0a-5d27-8a55-d5f6f3f0a9b4")
"""The namespace of the object IDs derived from user names (RFC 9562, section 5.5)."""
_LIFETIME_SECONDS = 3600
_YEAR_SECONDS = 366 * 86_400
_CLOCK_SKEW_SECONDS = 300
"""The leeway of Microsoft's own validators (TokenValidationParameters.DefaultClockSkew)."""

Offset = Annotated[int, Field(ge=-_YEAR_SECONDS, le=_YEAR_SECONDS)]
Version = Literal["1.0", "2.0"]
Claims = dict[str, JsonValue]

_CLIENT_CLAIMS: Mapping[Version, tuple[str, str]] = {"1.0": ("appid", "appidacr"), "2.0": ("azp", "azpacr")}


class TokenRequest(BaseModel):
    """The token to mint. Times are seconds from now; a negative lifetime makes an expired token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = Field(min_length=1, max_length=256)
    """A user's name, which always maps to the same object ID, or an object ID. With `app`: a service principal's."""
    app: bool = False
    """The token is app-only, as a managed identity's or a plug-in's is: without `scp`, but with `idtyp`."""
    version: Version = "2.0"
    """`ver`; it selects the issuer and the names of the client's claims."""
    roles: tuple[str, ...] = ()
    audience: str | None = None
    tenant: uuid.UUID | None = None
    issuer: str | None = None
    lifetime_seconds: Offset = _LIFETIME_SECONDS
    not_before_offset: Offset = 0
    claims: dict[str, JsonValue] = Field(default_factory=dict)
    """Claims that replace or extend the others; null removes a claim."""
    forged: bool = False
    """Sign with an unpublished key under the published key's ID."""
    unknown_kid: bool = False
    application_key: uuid.UUID | None = None
    """Sign with the application-specific key of this client ID. Only the key set with `?appid=` contains it."""
    algorithm: Literal["RS256", "none", "HS256"] = "RS256"
    """HS256 uses the public key as the secret: the classic algorithm confusion (RFC 8725, section 2.1)."""


class SigningKey:
    """An RSA key pair and the key ID it is published under."""

    def __init__(self, kid: str | None = None, *, issuer: str | None = None) -> None:
        """`issuer` restricts the key to one issuer; None allows every issuer whose key set contains it."""
        self.kid = kid or secrets.token_urlsafe(20)
        self.issuer = issuer

    @cached_property
    def private(self) -> RSAPrivateKey:
        """The private key. It is generated on first use: that takes 0.1 s, which would delay the emulator's start."""
        return generate_private_key(public_exponent=65537, key_size=2048)

    def published(self) -> dict[str, object]:
        """Return the key set's entry (RFC 7517), with Entra's member `issuer` if the key is restricted."""
        public = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        entry = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "n": public["n"], "e": public["e"]}
        return entry if self.issuer is None else entry | {"issuer": self.issuer}

    def public_pem(self) -> bytes:
        """Return the public key in PEM, which anyone can derive from the key set."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class Issuer:
    """Issues tokens for every tenant with the same keys, as Entra does."""

    def __init__(self, url: str, definition: IdentityDefinition) -> None:
        """`url` is the web server's, without a trailing slash."""
        self._url = url
        self._definition = definition
        self._keys = [SigningKey()]
        self._forgers_key = SigningKey(kid=self._keys[0].kid)
        self._other_tenants_key = SigningKey(issuer=self.v2(OTHER_TENANT_ID))
        self._application_keys: dict[str, SigningKey] = {}

    @property
    def key(self) -> SigningKey:
        """The key that signs new tokens."""
        return self._keys[0]

    @property
    def forgers_key(self) -> SigningKey:
        """An unpublished key under the current signing key's ID."""
        return self._forgers_key

    @property
    def other_tenants_key(self) -> SigningKey:
        """A key that the key set restricts to the issuer of another tenant."""
        return self._other_tenants_key

    @property
    def worker_audience(self) -> str:
        """The audience of senders' tokens."""
        return self._definition.worker_audience

    def v2(self, tenant: object) -> str:
        """Return the issuer of a tenant's version 2 tokens."""
        return urls.issuer_v2(self._url, tenant)

    def v1(self, tenant: object) -> str:
        """Return the issuer of a tenant's version 1 tokens; it ends in a slash."""
        return urls.issuer_v1(self._url, tenant)

    def discovery(self, issuer: str, client_id: str | None = None) -> dict[str, object]:
        """Return the issuer's OpenID discovery document (OpenID Connect Discovery 1.0, section 3).

        `client_id`: the application that the document is for, `?appid=`.
        """
        tenant_url = issuer.removesuffix("/").removesuffix("/v2.0")
        query = "" if client_id is None else f"?{urlencode({'appid': client_id})}"
        return {
            "issuer": issuer,
            "jwks_uri": f"{tenant_url}/discovery/v2.0/keys{query}",
            "token_endpoint": f"{self._url}/emulator/token",
            "authorization_endpoint": f"{tenant_url}/oauth2/v2.0/authorize",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def key_set(self, client_id: str | None = None) -> dict[str, object]:
        """Return the published keys, newest first; the key of the other tenant comes last.

        `client_id`: an application. If it has a signing key, the key set is that key alone.
        """
        application = self._application_keys.get((client_id or "").lower())
        if application is not None:
            return {"keys": [application.published()]}
        return {"keys": [key.published() for key in (*self._keys, self._other_tenants_key)]}

    def restrict_keys(self, issuer: str | None) -> None:
        """Restrict the published keys to this issuer (`{tenantid}` matches any tenant); None lifts the restriction."""
        for key in self._keys:
            key.issuer = issuer

    def rotate(self, *, keep_old: bool = True) -> None:
        """Sign new tokens with a new key; keep the old keys published, or withdraw them."""
        new = SigningKey(issuer=self.key.issuer)
        self._keys = [new, *self._keys] if keep_old else [new]
        self._forgers_key = SigningKey(kid=new.kid)

    def mint(self, request: TokenRequest) -> str:
        """Return a token in Entra's shape with the defects that the request names."""
        claims = self.claims(request)
        key = self._forgers_key if request.forged else self._signing_key(request)
        kid = secrets.token_urlsafe(20) if request.unknown_kid else key.kid
        match request.algorithm:
            case "RS256":
                return self._signed(key, claims, kid=kid)
            case "HS256":
                signing_input = _signing_input("HS256", claims, kid)
                public_key = self._keys[0].public_pem()
                return f"{signing_input}.{_base64url(hmac.digest(public_key, signing_input.encode(), 'sha256'))}"
            case "none":
                return f"{_signing_input('none', claims, kid)}."
            case _:
                assert_never(request.algorithm)

    def application_key(self, client_id: uuid.UUID) -> SigningKey:
        """Return the signing key of an application, a new one at the first call."""
        return self._application_keys.setdefault(str(client_id), SigningKey())

    def _signing_key(self, request: TokenRequest) -> SigningKey:
        return self._keys[0] if request.application_key is None else self.application_key(request.application_key)

    def for_managed_identity(self, resource: str, lifetime_seconds: int) -> str:
        """Return the managed identity's token: app-only, version 1, `aud` exactly the resource."""
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
        """Return the claims of a token. Raise `InvalidToken` if the signature or the times do not hold.

        The caller checks audience and issuer.
        """
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = next((key for key in self._keys if key.kid == kid), None)
            if key is None:
                raise InvalidToken("signed by an unknown key")
            claims: Mapping[str, object] = jwt.decode(
                token,
                key.private.public_key(),
                algorithms=["RS256"],
                leeway=_CLOCK_SKEW_SECONDS,
                options={"verify_aud": False, "require": ["exp"]},
            )
        except (jwt.PyJWTError, RecursionError) as error:  # deep nesting exhausts the JSON parser's stack
            raise InvalidToken(str(error)) from error
        return claims

    def claims(self, request: TokenRequest) -> Claims:
        """Return the payload of the token to mint."""
        now = int(time.time())
        tenant = str(request.tenant or self._definition.tenant_id)
        object_id = str(object_id_of(request.user))
        default_issuer = self.v1(tenant) if request.version == "1.0" else self.v2(tenant)
        roles: JsonValue = list(request.roles) or None
        common: Claims = {
            "aud": request.audience or self._definition.worker_audience,
            "iss": request.issuer or default_issuer,
            "iat": now,
            "nbf": now + request.not_before_offset,
            "exp": now + request.lifetime_seconds,
            "oid": object_id,
            "roles": roles,
            "tid": tenant,
            "uti": secrets.token_urlsafe(16),
            "ver": request.version,
        }
        claims = common | _client_claims(request) | _subject_claims(request, object_id) | request.claims
        return {name: value for name, value in claims.items() if value is not None}

    @staticmethod
    def _signed(key: SigningKey, claims: Claims, *, kid: str) -> str:
        # jwt.encode refuses claims of the wrong type. Tests need exactly those, so this signs one layer below.
        return jwt.PyJWS().encode(json.dumps(claims).encode(), key.private, "RS256", headers={"kid": kid})


def _client_claims(request: TokenRequest) -> Claims:
    """Return the client application and its authentication: public client (0) or client certificate (2)."""
    client = str(uuid.uuid5(_USERS, f"client of {request.user}")) if request.app else FRONT_END_CLIENT_ID
    return dict(zip(_CLIENT_CLAIMS[request.version], (client, "2" if request.app else "0"), strict=True))


def _subject_claims(request: TokenRequest, object_id: str) -> Claims:
    """Return the claims that distinguish a user's token from an application's."""
    if request.app:
        return {"idtyp": "app", "sub": object_id}
    pairwise = _base64url(hashlib.sha256(object_id.encode()).digest())
    return {"name": request.user, "scp": "access_as_user", "sub": pairwise}


def object_id_of(user: str) -> uuid.UUID:
    """Return the object ID of a user's name; an object ID is returned unchanged."""
    try:
        return uuid.UUID(user)
    except ValueError:
        return uuid.uuid5(_USERS, user)


def _signing_input(algorithm: str, claims: Claims, kid: str) -> str:
    """Return header and payload of a token that PyJWT rightly refuses to sign (RFC 7515, section 5.1)."""
    header = {"typ": "JWT", "alg": algorithm, "kid": kid}
    return ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
