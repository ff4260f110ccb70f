"""The gateway's statement: the gateway signs which principal it verified for which request.

The user's token ends at the gateway, so the request carries the statement as its claim instead. It is a compact JWS
(RFC 7515) with the algorithm ES256 and the type `flow-statement+jwt`, which no access token has. A statement opens
nothing but the one request that it names: it holds the request's queue, message ID, flow, input hash and user.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Final, Literal, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, SecretStr, ValidationError

from flow_contracts import strict_json
from flow_contracts.guid import NIL_GUID, parse_guid
from flow_contracts.request import MAX_FLOW_NAME_LENGTH, FlowRequest
from flow_worker.access import jws
from flow_worker.access.authorities import BoundRequest, ProvenSender
from flow_worker.access.input_hash import input_hash
from flow_worker.access.principal import Principal
from flow_worker.access.statement_keys import SigningKey, StatementKey

TYPE: Final = "flow-statement+jwt"
MAX_LIFETIME_SECONDS: Final = 3600
"""The longest time from `iat` to `exp` that a worker accepts."""

_MAX_TIME = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())
_MAX_KID_CHARACTERS = 64
_MAX_CLAIM_CHARACTERS = 4096
_ECDSA: Final = ec.ECDSA(hashes.SHA256())
_NUMBER_BYTES: Final = 32
"""The length of each number of a signature (RFC 7518, section 3.4)."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of a gateway about one request."""

    gateway: str
    """The gateway's name: `statements.issuer` in the settings."""
    request: BoundRequest
    principal: Principal
    """The principal that the user's token proved, with the authority `gateway`. Never acting for another user."""
    issued_at: int
    """Unix seconds."""
    expires_at: int
    """Unix seconds: Service Bus must have enqueued the request until then."""
    client: str | None = None
    """The client ID of the application that the user's token was issued to."""
    scopes: str | None = None
    """The delegated permissions in the user's token, separated by spaces; None for an application."""
    bound_to: str | None = None
    """The value of the token claim that binds the user's token to one request; see `claims.binding_claim`."""


class StatementKeys(Protocol):
    """The source of the gateways' public keys."""

    async def find(self, kid: str) -> StatementKey | None:
        """Return the key `kid`, or None if no gateway has such a key. Raises `TemporarilyUnavailable`."""
        ...


class StatementSigner:
    """Signs the statements of one gateway for one request queue."""

    def __init__(
        self,
        key: SigningKey,
        *,
        issuer: str,
        queue: str,
        lifetime_seconds: int,
        binding_claim: str,
        now: Callable[[], datetime],
    ) -> None:
        """`issuer`: the gateway's name. `binding_claim`: see `claims.binding_claim` in the settings."""
        self._key = key
        self._issuer = issuer
        self._queue = queue.lower()
        self._lifetime = lifetime_seconds
        self._binding_claim = binding_claim
        self._now = now

    def signed(self, request: FlowRequest, sender: ProvenSender) -> FlowRequest:
        """Return the request with the statement as its claim. The user's token must not be in the request.

        `sender`: what `EntraAuthority` proved. For an asserter, the request names the user in `on_behalf_of`.
        """
        return request.model_copy(update={"claim": SecretStr(self._sign(request, sender))})

    def _sign(self, request: FlowRequest, sender: ProvenSender) -> str:
        principal, claims, issued_at = sender.principal, sender.claims, int(self._now().timestamp())
        stated = BoundRequest(
            self._queue, request.message_id, request.flow, input_hash(request.input), request.on_behalf_of
        )
        statement = Statement(
            gateway=self._issuer,
            request=stated,
            principal=Principal(principal.tenant, principal.oid, principal.kind, principal.roles, "gateway"),
            issued_at=issued_at,
            expires_at=issued_at + self._lifetime,
            client=_text(claims.get("appid" if claims.get("ver") == "1.0" else "azp")),
            scopes=_text(claims.get("scp")),
            bound_to=_text(claims.get(self._binding_claim)),
        )
        return sign(statement, self._key)


def _text(value: JsonValue) -> str | None:
    """Return a token claim that the worker would accept in a statement. Without one, only less is permitted."""
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_CLAIM_CHARACTERS else None


def sign(statement: Statement, key: SigningKey) -> str:
    """Return the statement in compact form, signed with the key."""
    request, principal = statement.request, statement.principal
    payload: dict[str, JsonValue] = {
        "iss": statement.gateway,
        "aud": request.queue,
        "jti": request.message_id,
        "iat": statement.issued_at,
        "exp": statement.expires_at,
        "flow": request.flow,
        "input_sha256": request.input_sha256,
        "tid": principal.tenant,
        "oid": principal.oid,
        "kind": principal.kind,
        "roles": [*sorted(principal.roles)],
    }
    optional = {
        "on_behalf_of": request.on_behalf_of,
        "azp": statement.client,
        "scp": statement.scopes,
        "bound_to": statement.bound_to,
    }
    payload |= {name: value for name, value in optional.items() if value is not None}
    # Not by PyJWT's own writer, which writes and checks the same header each time, as slowly as it signs.
    text = _header(key.kid) + b"." + _encoded(strict_json.dump(payload))
    numbers = decode_dss_signature(key.private.sign(text, _ECDSA))
    signature = b"".join(number.to_bytes(_NUMBER_BYTES, "big") for number in numbers)
    return (text + b"." + _encoded(signature)).decode()


@lru_cache(maxsize=8)
def _header(kid: str) -> bytes:
    return _encoded(strict_json.dump({"alg": jws.ES256, "kid": kid, "typ": TYPE}))


def _encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


async def verify(text: str, keys: StatementKeys) -> Statement:
    """Return the statement once its signature and its form are verified. The caller judges times and request.

    Raises `jws.BadToken`, and `TemporarilyUnavailable` if the keys are unavailable.
    """
    token = jws.read(text)
    token.require_type(TYPE, "statement")
    kid = token.header.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID_CHARACTERS:
        raise jws.BadToken("does not name its signing key ('kid')")
    key = await keys.find(kid)
    if key is None:
        raise jws.BadToken("is signed by a key that the worker does not have")
    token.require_es256_signature(key.public)
    # Only now has a gateway vouched for the payload.
    return _statement(jws.members(token.payload))


def _id(value: str) -> str:
    if value == NIL_GUID or value != parse_guid(value):
        raise ValueError("must be an ID in lower case other than the nil GUID")
    return value


_Id = Annotated[str, AfterValidator(_id)]
_Text = Annotated[str, Field(min_length=1, max_length=_MAX_CLAIM_CHARACTERS)]
_Time = Annotated[int, Field(ge=0, le=_MAX_TIME)]


class _Payload(BaseModel):
    """The members of a statement. Unknown ones are refused: one of a later version could restrict the statement."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)

    iss: _Text
    aud: _Text
    jti: _Text
    iat: _Time
    exp: _Time
    flow: Annotated[str, Field(min_length=1, max_length=MAX_FLOW_NAME_LENGTH)]
    input_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tid: _Id
    oid: _Id
    kind: Literal["user", "app"]
    roles: list[str]
    on_behalf_of: _Text = ""
    azp: _Text = ""
    scp: _Text = ""
    bound_to: _Text = ""


def _statement(members: object) -> Statement:
    try:
        payload = _Payload.model_validate(members)
    except ValidationError as error:
        first = error.errors()[0]
        raise jws.BadToken(f"is no statement of a gateway: its '{str(first['loc'][0])[:32]}' is not valid") from None
    return Statement(
        gateway=payload.iss,
        request=BoundRequest(
            payload.aud, payload.jti, payload.flow, payload.input_sha256, payload.on_behalf_of or None
        ),
        principal=Principal(payload.tid, payload.oid, payload.kind, frozenset(payload.roles), "gateway"),
        issued_at=payload.iat,
        expires_at=payload.exp,
        client=payload.azp or None,
        scopes=payload.scp or None,
        bound_to=payload.bound_to or None,
    )
