"""The `entra` authority: the claim is an access token that a tenant issued for the worker's own API."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from flow_contracts.guid import NIL_GUID, parse_guid
from flow_worker.access import jws
from flow_worker.access.audiences import clients_of
from flow_worker.access.authorities import Evidence, ProvenSender, TokenClaims
from flow_worker.access.issuer import Issuer
from flow_worker.access.principal import Principal
from flow_worker.errors import Refused

_MAX_KID_CHARACTERS = 256
_MAX_VERIFIED = 2000
"""Verified tokens in the cache; each takes about 3 KB."""
_MAX_TIME = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())
_BACKDATED_SECONDS = 300
"""Entra dates `iat` and `nbf` back by five minutes; a managed identity's token of 24 hours spans 24 h and 5 min."""
_NOT_OF_A_BEARER_TOKEN = ("cnf", "events")
"""Token claims of proof-of-possession tokens (RFC 7800) and of logout and security-event tokens (RFC 8417).

A proof-of-possession token without its proof is a stolen one, and a request carries no proof.
"""


@dataclass(frozen=True, slots=True)
class ClaimLimits:
    """The optional limits of the tokens that the worker accepts."""

    scopes: frozenset[str] = frozenset()
    """A user's token must hold one of these delegated permissions; empty: any."""
    clients: frozenset[str] = frozenset()
    """The client IDs of the applications that may get tokens for the worker; empty: any."""
    lifetime_seconds: int = 86_400
    """The longest time from now to a token's expiry when Entra issues it."""


_NO_LIMITS = ClaimLimits()


class SigningKeys(Protocol):
    """The source of issuers' signing keys."""

    async def find(self, issuer: Issuer, kid: str) -> jws.SigningKey | None:
        """Return the issuer's key `kid`, or None if the issuer has no such key. Raises `TemporarilyUnavailable`."""
        ...


class EntraAuthority:
    """Verifies access tokens of Entra.

    The authority judges `exp` and `nbf` at the time when the broker enqueued the request, with a tolerance of
    `skew_seconds`. A request may wait in the queue longer than its token lives, and the sender cannot set the broker's
    clock. The authority refuses a request older than `max_age_seconds`. Otherwise a request could use a token that
    expired weeks ago.
    """

    def __init__(
        self,
        keys: SigningKeys,
        *,
        issuers: Collection[Issuer],
        audiences: Collection[str],
        algorithms: Sequence[str],
        skew_seconds: int,
        max_age_seconds: float,
        now: Callable[[], datetime],
        limits: ClaimLimits = _NO_LIMITS,
    ) -> None:
        self._keys = keys
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._audiences = clients_of(audiences, {issuer.tenant for issuer in issuers})
        self._limits = limits
        self._algorithms = tuple(algorithms)
        self._skew = skew_seconds
        self._max_age = timedelta(seconds=max_age_seconds)
        self._now = now
        self._cache: OrderedDict[bytes, _VerifiedToken] = OrderedDict()

    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        """See `Authority.authenticate`. Raises `TemporarilyUnavailable` if the issuer's keys are unavailable."""
        claim, enqueued_at = evidence.claim, evidence.enqueued_at
        if claim is None:
            raise Refused("claim_missing", "The request carries no claim; send a token for this worker in 'claim'.")
        if self._now() - enqueued_at > self._max_age:
            raise Refused("request_too_old", f"The request is older than {self._max_age}; send it again.")
        try:
            verified = await self._verified(claim.get_secret_value())
        except jws.BadToken as error:
            raise Refused("claim_invalid", f"The claim {error}.") from None
        self._require(verified, enqueued_at.timestamp())
        return ProvenSender(verified.principal, verified.claims, verified.token.exp)

    async def is_signed(self, claim: SecretStr) -> bool:
        """Return whether one of the issuers signed the claim, valid here or not. Raises `TemporarilyUnavailable`."""
        try:
            await self._signed(jws.read(claim.get_secret_value()))
        except (jws.BadToken, Refused):
            return False
        return True

    async def _verified(self, text: str) -> _VerifiedToken:
        """Return the token once its signature is verified.

        Senders use a token for many requests, and verifying its signature is the costly part. The cache is keyed by
        the token's hash, so that the process holds no usable tokens. A cached token counts only while its issuer still
        publishes its key: withdrawing a key must work at once. Refusals are not cached, because they can pass.
        """
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        cached = self._cache.get(digest)
        if cached is not None and await self._keys.find(cached.issuer, cached.key.kid) == cached.key:
            self._cache.move_to_end(digest)
            return cached
        verified = self._cache[digest] = await self._verify(text)
        if len(self._cache) > _MAX_VERIFIED:
            self._cache.popitem(last=False)
        return verified

    async def _verify(self, text: str) -> _VerifiedToken:
        issuer, key, claims = await self._signed(jws.read(text))
        # Only now has the issuer vouched for the claims; before, they served to select the key.
        access = _access_token(claims)
        self._require_client(access)
        return _VerifiedToken(issuer, key, access, _principal(access), claims)

    async def _signed(self, token: jws.Jws) -> tuple[Issuer, jws.SigningKey, TokenClaims]:
        """Return the issuer, its key and the claims, once the signature is verified."""
        token.require_access_token_type()
        claims = jws.members(token.payload)
        # The unproven issuer only selects one of the tenants in the settings. No URL is taken from the token.
        issuer = self._issuer(claims)
        key = await self._key(token, issuer)
        token.require_signature(key, self._algorithms)
        return issuer, key, claims

    def _issuer(self, claims: TokenClaims) -> Issuer:
        name = claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise Refused("claim_issuer", "The claim is from another issuer than this worker's tenants.")
        return issuer

    async def _key(self, token: jws.Jws, issuer: Issuer) -> jws.SigningKey:
        kid = token.header.get("kid")
        if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID_CHARACTERS:
            raise jws.BadToken("does not name its signing key ('kid')")
        key = await self._keys.find(issuer, kid)
        if key is None:
            raise jws.BadToken("is signed by a key its issuer does not publish")
        return key

    def _require_client(self, token: _AccessToken) -> None:
        """Require the client application and the delegated permission, where the settings name them.

        An application's token has no delegated permission: its app roles say what it may do.
        """
        if self._limits.clients and token.client not in self._limits.clients:
            claim = "appid" if token.ver == "1.0" else "azp"
            raise Refused("claim_client", f"The claim was issued to a client application ('{claim}') not allowed here.")
        if self._limits.scopes and token.scp is not None and self._limits.scopes.isdisjoint(token.scp.split(" ")):
            raise Refused("claim_scope", "The claim holds no delegated permission ('scp') that is accepted here.")

    def _require(self, verified: _VerifiedToken, at: float) -> None:
        """Require tenant, version, audience and times at every use of a token, cached or not. Raises `Refused`."""
        token, issuer, key = verified.token, verified.issuer, verified.key
        if token.tid != issuer.tenant or token.ver != issuer.version:
            raise Refused("claim_issuer", "The claim's tenant ('tid') or version ('ver') is not its issuer's.")
        if token.aud not in self._audiences:
            raise Refused("claim_audience", "The claim is a token for another audience than this worker.")
        if key.client_id is not None and key.client_id not in self._audiences[token.aud]:
            # The owner of an application can upload its key, and so sign tokens of that application at will.
            raise Refused("claim_invalid", "The claim is signed by the key of another application than its audience.")
        if at > token.exp + self._skew:
            raise Refused("claim_expired", "The claim had expired when the request was sent; send it with a fresh one.")
        if at < token.valid_from - self._skew:
            raise Refused("claim_not_yet_valid", "The claim was not valid yet when the request was sent.")
        if token.exp <= token.valid_from:
            # The skew could otherwise make a token valid that never was.
            raise Refused("claim_invalid", "The claim expires ('exp') before it becomes valid ('nbf', 'iat').")
        if token.lifetime_seconds > self._limits.lifetime_seconds + _BACKDATED_SECONDS:
            limit = f"{self._limits.lifetime_seconds} s"
            raise Refused("claim_invalid", f"The claim is valid for longer than {limit}; send a token of Entra.")


def _entra_id(value: str) -> str:
    """Accept only the spelling that Entra writes, so that one ID cannot appear as two different principals."""
    if value == NIL_GUID or value != parse_guid(value):
        raise ValueError("must be an ID in lower case other than the nil GUID")
    return value


_EntraId = Annotated[str, AfterValidator(_entra_id)]
_Time = Annotated[int, Field(ge=0, le=_MAX_TIME)]


class _AccessToken(BaseModel):
    """The token claims that the worker reads (Microsoft Learn, "Access token claims reference"). Times: Unix seconds.

    A token can refer to groups that it does not contain (groups overage: `_claim_names`, `hasgroups`). The worker does
    not fetch them: the sender does not hold a role that is absent from the token.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", hide_input_in_errors=True)

    aud: str
    exp: _Time
    nbf: _Time
    iat: _Time | None = None
    oid: _EntraId
    tid: _EntraId
    ver: str
    scp: str | None = None
    roles: list[str] = []
    idtyp: str | None = None
    sub: str | None = None
    azp: str | None = None
    appid: str | None = None

    @property
    def client(self) -> str | None:
        """The client application that the token was issued to; its claim's name depends on the token's version."""
        return self.appid if self.ver == "1.0" else self.azp

    @property
    def valid_from(self) -> int:
        """The later of `nbf` and `iat`: nobody can have sent a token before its issuer issued it."""
        return self.nbf if self.iat is None else max(self.nbf, self.iat)

    @property
    def lifetime_seconds(self) -> int:
        """The time from the earlier of `nbf` and `iat` to the expiry."""
        return self.exp - (self.nbf if self.iat is None else min(self.nbf, self.iat))

    @property
    def kind(self) -> Literal["user", "app"] | None:
        """The kind of the sender, a user or an application; None if this is no access token.

        Only users' tokens have `scp`. Applications' tokens have `idtyp` where the API's registration asks for it.
        Without `idtyp`, the subject of an application's token is the application itself (`sub` equals `oid`).

        An ID token has neither. It proves to a front end that a user signed in, and authorises nothing. With one
        registration for front end and API it has the audience of an access token, so only this property excludes it.
        """
        if self.scp is not None:
            return "user" if self.scp.strip() and self.idtyp in (None, "user") else None
        if self.idtyp is not None:
            return "app" if self.idtyp == "app" else None
        return "app" if self.sub == self.oid and self.client else None


@dataclass(frozen=True, slots=True)
class _VerifiedToken:
    """A token with a valid signature. `EntraAuthority` judges audience and times at each use."""

    issuer: Issuer
    key: jws.SigningKey
    token: _AccessToken
    principal: Principal
    claims: TokenClaims = field(repr=False)


def _access_token(claims: TokenClaims) -> _AccessToken:
    for foreign in _NOT_OF_A_BEARER_TOKEN:
        if foreign in claims:
            raise Refused("claim_invalid", f"The claim is no bearer access token: it has '{foreign}'.")
    try:
        return _AccessToken.model_validate(claims)
    except ValidationError as error:
        first = error.errors()[0]
        name, missing = first["loc"][0], first["type"] == "missing"
        fault = f"lacks '{name}'" if missing else f"has a '{name}' that no access token of Entra has"
        raise Refused("claim_invalid", f"The claim {fault}.") from None


def _principal(token: _AccessToken) -> Principal:
    if token.kind is None:
        raise Refused(
            "claim_invalid",
            "The claim is neither a user's access token ('scp') nor an application's ('idtyp'); an ID token is not "
            "accepted.",
        )
    return Principal(tenant=token.tid, oid=token.oid, kind=token.kind, roles=frozenset(token.roles), authority="entra")
