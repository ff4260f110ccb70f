"""The `entra` authority: the claim is an access token that a tenant issued for the worker's own API."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from flow_contracts.guid import NIL_GUID, parse_guid
from flow_worker.access import jws
from flow_worker.access.authorities import Evidence, ProvenSender, TokenClaims
from flow_worker.access.issuer import Issuer
from flow_worker.access.principal import Principal
from flow_worker.errors import Refused

_MAX_KID_CHARACTERS = 256
_MAX_KNOWN = 2000
"""Tokens whose signature need not be checked again; some 3 KB each."""
_LAST_MOMENT = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())


class SigningKeys(Protocol):
    """Where an issuer's signing keys are had."""

    async def find(self, issuer: Issuer, kid: str) -> jws.SigningKey | None:
        """The issuer's key `kid`, None if it has no such key. Raises `TemporarilyUnavailable`."""
        ...


class EntraAuthority:
    """Tells from a claim who the sender is.

    `exp` and `nbf` are judged at the time the broker enqueued the request, give or take `skew_seconds`: a request may
    wait in the queue longer than a token lives, and the broker's clock is the one the sender cannot set. So that no
    request waits for ever on a token of long ago, none older than `max_age_seconds` is taken.
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
    ) -> None:
        self._keys = keys
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._audiences = frozenset(audiences)
        self._algorithms = tuple(algorithms)
        self._skew = skew_seconds
        self._max_age = timedelta(seconds=max_age_seconds)
        self._now = now
        self._known: OrderedDict[bytes, _Verified] = OrderedDict()

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
        self._require(verified.token, verified.issuer, enqueued_at.timestamp())
        return ProvenSender(verified.principal, verified.claims, verified.token.exp)

    async def _verified(self, text: str) -> _Verified:
        """Senders use a token more than once; its signature need not be checked again while its key is published."""
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        before = self._known.get(digest)
        if before is not None and await self._keys.find(before.issuer, before.key.kid) == before.key:
            self._known.move_to_end(digest)
            return before
        verified = self._known[digest] = await self._verify(text)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return verified

    async def _verify(self, text: str) -> _Verified:
        token = jws.read(text)
        claims = jws.members(token.payload)
        issuer = self._issuer(claims)
        key = await self._key(token, issuer)
        token.require_signature(key, self._algorithms)
        access = _access_token(claims)
        return _Verified(issuer, key, access, _principal(access), claims)

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

    def _require(self, token: _AccessToken, issuer: Issuer, at: float) -> None:
        """What holds for every token, whoever it is about."""
        if token.tid != issuer.tenant or token.ver != issuer.version:
            raise Refused("claim_issuer", "The claim's tenant ('tid') or version ('ver') is not its issuer's.")
        if token.aud not in self._audiences:
            raise Refused("claim_audience", "The claim is a token for another audience than this worker.")
        if at > token.exp + self._skew:
            raise Refused("claim_expired", "The claim had expired when the request was sent; send it with a fresh one.")
        if at < token.nbf - self._skew:
            raise Refused("claim_not_yet_valid", "The claim was not valid yet when the request was sent.")


def _entra_id(value: str) -> str:
    """Accept only the spelling that Entra writes, so that one ID cannot appear as two different principals."""
    if value == NIL_GUID or value != parse_guid(value):
        raise ValueError("must be an ID in lower case other than the nil GUID")
    return value


_EntraId = Annotated[str, AfterValidator(_entra_id)]
_Moment = Annotated[int, Field(ge=0, le=_LAST_MOMENT)]


class _AccessToken(BaseModel):
    """The claims that are looked at (Microsoft Learn, "Access token claims reference"). Times are Unix seconds.

    Roles that a token only refers to (groups overage: `_claim_names`, `hasgroups`) are not looked up: what is not in
    the token is not held.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", hide_input_in_errors=True)

    aud: str
    exp: _Moment
    nbf: _Moment
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
    def kind(self) -> Literal["user", "app"] | None:
        """None: neither; it is an ID token, say, which tells a user's browser who signed in and opens nothing.

        Only users' tokens have `scp`. Applications' have `idtyp` where the API's registration asks for it; without it
        they are told by being about the very application that they were issued to.
        """
        if self.scp is not None:
            return "user" if self.scp.strip() and self.idtyp in (None, "user") else None
        if self.idtyp is not None:
            return "app" if self.idtyp == "app" else None
        return "app" if self.sub == self.oid and (self.azp or self.appid) else None


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that was signed as it must be. Audience and times are judged each time it is used."""

    issuer: Issuer
    key: jws.SigningKey
    token: _AccessToken
    principal: Principal
    claims: TokenClaims = field(repr=False)


def _access_token(claims: TokenClaims) -> _AccessToken:
    try:
        return _AccessToken.model_validate(claims)
    except ValidationError as error:
        first = error.errors()[0]
        name, missing = first["loc"][0], first["type"] == "missing"
        what = f"lacks '{name}'" if missing else f"has a '{name}' that no access token of Entra has"
        raise Refused("claim_invalid", f"The claim {what}.") from None


def _principal(token: _AccessToken) -> Principal:
    if token.kind is None:
        raise Refused(
            "claim_invalid",
            "The claim is neither a user's access token ('scp') nor an application's ('idtyp'); an ID token is none.",
        )
    return Principal(tenant=token.tid, oid=token.oid, kind=token.kind, roles=frozenset(token.roles), authority="entra")
