"""Which claims hold: every way a token can be wrong is its own test."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt import PyJWK
from jwt.algorithms import RSAAlgorithm
from pydantic import SecretStr

from worker.access.tokens import EntraAuthority
from worker.errors import Refused

TENANT = "11111111-2222-3333-4444-555555555555"
AUTHORITY = "https://login.example"
ISSUER = f"{AUTHORITY}/{TENANT}/v2.0"
AUDIENCE = "api://flow-worker"
SENT = 1_800_000_000
SKEW = 300

Mint = Callable[..., str]


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_private_key(public_exponent=65_537, key_size=2048)


class Published:
    """An issuer's published keys."""

    def __init__(self, key: RSAPrivateKey) -> None:
        self._key = PyJWK(RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "k1", "alg": "RS256"})

    async def find(self, issuer: str, kid: str) -> PyJWK | None:
        assert issuer == ISSUER
        return self._key if kid == "k1" else None


@pytest.fixture
def authority(key: RSAPrivateKey) -> EntraAuthority:
    return EntraAuthority(
        Published(key), authority=AUTHORITY, tenants=[TENANT], audiences=[AUDIENCE, "guid"], skew_seconds=SKEW
    )


@pytest.fixture
def mint(key: RSAPrivateKey) -> Mint:
    def token(signer: Any = key, algorithm: str = "RS256", kid: str | None = "k1", **changes: object) -> str:
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "tid": TENANT,
            "oid": "ada",
            "nbf": SENT - 600,
            "exp": SENT + 600,
            "roles": ["Quotes.Create"],
            "scp": "access",
        }
        claims |= changes
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, signer, algorithm=algorithm, headers={"kid": kid} if kid else {})

    return token


async def code_for(authority: EntraAuthority, token: str | None, at: float = SENT) -> str:
    """The refusal's code; the message must not repeat the token."""
    claim = None if token is None else SecretStr(token)
    with pytest.raises(Refused) as caught:
        await authority.authenticate(claim, datetime.fromtimestamp(at, UTC))
    if token:
        assert token not in caught.value.message
    return caught.value.code


async def test_a_good_claim_tells_who_it_is(authority: EntraAuthority, mint: Mint) -> None:
    principal = await authority.authenticate(SecretStr(mint()), datetime.fromtimestamp(SENT, UTC))
    assert (principal.tenant, principal.oid, principal.kind) == (TENANT, "ada", "user")
    assert principal.roles == {"Quotes.Create"}


async def test_a_token_without_scp_is_an_apps(authority: EntraAuthority, mint: Mint) -> None:
    principal = await authority.authenticate(SecretStr(mint(scp=None, aud="guid")), datetime.fromtimestamp(SENT, UTC))
    assert principal.kind == "app"


async def test_no_claim_is_missing(authority: EntraAuthority) -> None:
    assert await code_for(authority, None) == "claim_missing"


async def test_a_claim_of_another_audience_is_refused(authority: EntraAuthority, mint: Mint) -> None:
    assert await code_for(authority, mint(aud="https://graph.microsoft.com")) == "claim_audience"
    assert await code_for(authority, mint(aud=AUDIENCE + "/")) == "claim_audience"


async def test_a_claim_of_another_issuer_or_tenant_is_refused(authority: EntraAuthority, mint: Mint) -> None:
    assert await code_for(authority, mint(iss="https://evil.example/v2.0")) == "claim_issuer"
    assert await code_for(authority, mint(tid="another")) == "claim_issuer"


@pytest.mark.parametrize("name", ["exp", "nbf", "aud", "tid", "oid"])
async def test_a_claim_that_lacks_what_it_must_have_is_refused(
    authority: EntraAuthority, mint: Mint, name: str
) -> None:
    assert await code_for(authority, mint(**{name: None})) in {"claim_invalid", "claim_audience"}


async def test_a_claim_signed_by_someone_else_is_refused(authority: EntraAuthority, mint: Mint) -> None:
    other = generate_private_key(public_exponent=65_537, key_size=2048)
    assert await code_for(authority, mint(signer=other)) == "claim_invalid"


async def test_a_claim_signed_by_an_unpublished_or_unnamed_key_is_refused(
    authority: EntraAuthority, mint: Mint
) -> None:
    assert await code_for(authority, mint(kid="k2")) == "claim_invalid"
    assert await code_for(authority, mint(kid=None)) == "claim_invalid"


async def test_the_public_key_is_no_secret_to_sign_with(
    authority: EntraAuthority, mint: Mint, key: RSAPrivateKey
) -> None:
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"k1"}').decode().rstrip("=")
    signed = f"{header}.{mint().split('.')[1]}"
    signature = base64.urlsafe_b64encode(hmac.digest(public, signed.encode(), "sha256")).decode().rstrip("=")
    assert await code_for(authority, f"{signed}.{signature}") == "claim_invalid"


async def test_an_unsigned_claim_is_refused(authority: EntraAuthority, mint: Mint) -> None:
    assert await code_for(authority, mint(signer=None, algorithm="none")) == "claim_invalid"


async def test_a_tampered_claim_is_refused(authority: EntraAuthority, mint: Mint) -> None:
    header, payload, signature = mint(roles=[]).split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["roles"] = ["Quotes.Create"]
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    assert await code_for(authority, f"{header}.{payload}.{signature}") == "claim_invalid"


@pytest.mark.parametrize("token", ["x", "a.b.c", "e30.e30.e30", "é.é.é", "." * 1000, "x" * 40_000, "\ud800"])
async def test_what_is_no_token_is_refused(authority: EntraAuthority, token: str) -> None:
    assert await code_for(authority, token) == "claim_invalid"


async def test_times_are_judged_when_the_request_was_sent_give_or_take_the_skew(
    authority: EntraAuthority, mint: Mint
) -> None:
    for at in (SENT + 600 + SKEW, SENT - 600 - SKEW):
        await authority.authenticate(SecretStr(mint()), datetime.fromtimestamp(at, UTC))
    assert await code_for(authority, mint(), SENT + 600 + SKEW + 1) == "claim_expired"
    assert await code_for(authority, mint(), SENT - 600 - SKEW - 1) == "claim_not_yet_valid"


@pytest.mark.parametrize("changes", [{"exp": "soon"}, {"nbf": True}, {"roles": "Quotes.Create"}, {"oid": 5}])
async def test_values_of_the_wrong_type_are_refused(
    authority: EntraAuthority, key: RSAPrivateKey, mint: Mint, changes: dict[str, object]
) -> None:
    claims = jwt.decode(mint(), options={"verify_signature": False}) | changes
    token = jwt.api_jws.encode(json.dumps(claims).encode(), key, algorithm="RS256", headers={"kid": "k1"})
    assert await code_for(authority, token) == "claim_invalid"
