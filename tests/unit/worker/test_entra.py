"""Which claims hold: every way a token can be wrong is its own test."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import JsonValue, SecretStr

from flow_worker.access.authorities import Evidence
from flow_worker.access.entra import EntraAuthority
from flow_worker.access.issuer import Issuer, issuers
from flow_worker.access.jws import Jws, SigningKey
from flow_worker.access.keys import published_key
from flow_worker.access.principal import Principal
from flow_worker.errors import Refused
from servicebus_emulator.cloud.entra.bad_tokens import mint_bad_tokens
from servicebus_emulator.cloud.entra.definitions import IdentityDefinition
from servicebus_emulator.cloud.entra.issuer import Issuer as TokenIssuer
from servicebus_emulator.cloud.entra.issuer import TokenRequest, object_id_of

DEFINITION = IdentityDefinition()
TENANT = str(DEFINITION.tenant_id)
AUTHORITY = "https://login.example"
AUDIENCE = DEFINITION.worker_audience
ROLE = "Quotes.Create"
ADA = str(object_id_of("ada"))
SKEW = 300
DAY = 86_400
ISSUER = TokenIssuer(AUTHORITY, DEFINITION)
ROLE_MISSING = "role_missing"


class Published:
    """The keys the issuer publishes, as the worker reads a key set."""

    async def find(self, issuer: Issuer, kid: str) -> SigningKey | None:
        entries = json.loads(json.dumps(ISSUER.key_set()))["keys"]
        return next((key for entry in entries if entry["kid"] == kid and (key := published_key(entry, issuer))), None)


def authority(*, now: datetime | None = None, algorithms: tuple[str, ...] = ("RS256",)) -> EntraAuthority:
    return EntraAuthority(
        Published(),
        issuers=issuers([TENANT], authority=AUTHORITY, authority_v1=AUTHORITY),
        audiences=[AUDIENCE, "guid"],
        algorithms=algorithms,
        skew_seconds=SKEW,
        max_age_seconds=DAY,
        now=lambda: now or datetime.now(UTC),
    )


def minted(**wanted: object) -> str:
    return ISSUER.mint(TokenRequest.model_validate({"user": "ada", "roles": [ROLE], **wanted}))


async def who(token: str, at: datetime | None = None) -> Principal:
    return (await authority().authenticate(Evidence(SecretStr(token), at or datetime.now(UTC)))).principal


async def refusal(token: str | None, at: datetime | None = None, *, now: datetime | None = None) -> str:
    """Its code. Who is proven but does not hold the role that counts is refused as well."""
    claim = None if token is None else SecretStr(token)
    try:
        proven = await authority(now=now).authenticate(Evidence(claim, at or datetime.now(UTC)))
    except Refused as error:
        no = error
    else:
        return "none" if ROLE in proven.principal.roles else ROLE_MISSING
    assert not token or token not in no.message
    assert no.message.isascii()
    return no.code


# --- whom tokens are about ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("audience", [AUDIENCE, "guid"])
async def test_a_users_token_tells_who_it_is(version: str, audience: str) -> None:
    principal = await who(minted(version=version, audience=audience))
    assert principal == Principal(TENANT, ADA, "user", frozenset({ROLE}), "entra")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("claims", [{}, {"idtyp": None}])
async def test_an_applications_token_tells_that_it_is_one(version: str, claims: Mapping[str, JsonValue]) -> None:
    principal = await who(minted(app=True, version=version, claims=claims))
    assert principal == Principal(TENANT, ADA, "app", frozenset({ROLE}), "entra")


@pytest.mark.parametrize(
    "claims",
    [
        {"scp": None},
        {"scp": None, "azp": None},
        {"scp": None, "idtyp": "user"},
        {"scp": None, "idtyp": "device"},
        {"scp": ""},
        {"scp": " "},
        {"idtyp": "app"},
        {"scp": None, "azp": None, "sub": ADA},
    ],
)
async def test_what_is_neither_a_users_nor_an_applications_access_token_opens_nothing(
    claims: Mapping[str, JsonValue],
) -> None:
    """An ID token has no `scp` either, and with the front end's registration used for both it has our audience."""
    assert await refusal(minted(claims=claims)) == "claim_invalid"


async def test_roles_that_a_token_only_refers_to_are_not_held() -> None:
    overage: dict[str, JsonValue] = {"hasgroups": True, "_claim_names": {"groups": "src1", "roles": "src1"}}
    assert (await who(minted(claims=overage))).roles == {ROLE}
    assert (await who(minted(roles=[], claims=overage))).roles == frozenset()


async def test_a_claim_says_more_than_who_it_is_about() -> None:
    proven = await authority().authenticate(Evidence(SecretStr(minted(claims={"nonce": "n"})), datetime.now(UTC)))
    assert proven.claims["nonce"] == "n"
    assert "nonce" not in repr(proven)


# --- when they hold ----------------------------------------------------------------------------------------------


async def test_times_are_judged_when_the_request_was_sent_give_or_take_the_skew() -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    token = minted(lifetime_seconds=600)
    times = (await authority().authenticate(Evidence(SecretStr(token), now))).claims
    assert isinstance(times["exp"], int)
    assert isinstance(times["nbf"], int)
    last = datetime.fromtimestamp(times["exp"] + SKEW, UTC)
    first = datetime.fromtimestamp(times["nbf"] - SKEW, UTC)
    for at in (first, last):
        assert await refusal(token, at) == "none"
    assert await refusal(token, last + timedelta(seconds=1)) == "claim_expired"
    assert await refusal(token, first - timedelta(seconds=1)) == "claim_not_yet_valid"


async def test_a_request_that_waited_too_long_is_refused_however_good_its_claim_was() -> None:
    sent = datetime.now(UTC)
    token = minted(lifetime_seconds=600)
    assert await refusal(token, sent, now=sent + timedelta(days=1)) == "none"
    assert await refusal(token, sent, now=sent + timedelta(days=1, seconds=1)) == "request_too_old"


# --- what does not hold ------------------------------------------------------------------------------------------

CODES = {
    "audience": {f"aud_{name}" for name in ("graph", "graph_id", "dataverse", "flow", "shorter", "with_more", "upper")}
    | {"aud_with_a_slash", "aud_with_a_scope", "aud_empty"},
    "issuer": {"tid_of_another_tenant", "ver_unknown", "missing_iss", "null_iss"},
    "expired": {"expired"},
    "not_yet_valid": {"not_yet_valid"},
}
LIKE_THE_ROLE = {"homoglyph", "fullwidth", "zero_width", "case", "with_a_space", "with_nul", "longer", "shorter"}
OTHER_ROLES = {f"roles_{name}" for name in LIKE_THE_ROLE | {"wildcard", "joined", "empty"}}
NO_ROLE = OTHER_ROLES | {"roles_in_scp", "roles_in_groups", "groups_overage"}


def code_of(name: str) -> str:
    for code, names in CODES.items():
        if name in names:
            return f"claim_{code}"
    return "claim_issuer" if name.startswith("iss_") else ROLE_MISSING if name in NO_ROLE else "claim_invalid"


def wrong(version: str) -> Mapping[str, str]:
    return mint_bad_tokens(ISSUER, TokenRequest.model_validate({"user": "ada", "roles": [ROLE], "version": version}))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
async def test_every_wrong_token_is_refused_with_its_code(version: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tokens = wrong(version)
    assert len(tokens) > 150
    ended = {name: await refusal(token) for name, token in tokens.items()}
    assert ended == {name: code_of(name) for name in tokens}
    assert caplog.records == []


async def test_a_wrong_token_stays_wrong_where_more_algorithms_are_taken() -> None:
    """The issuer says of its key by which one it signs."""
    more = authority(algorithms=("RS256", "PS256"))
    held = []
    for name, token in wrong("2.0").items():
        try:
            proven = await more.authenticate(Evidence(SecretStr(token), datetime.now(UTC)))
        except Refused:
            continue
        held += [name] if ROLE in proven.principal.roles else []
    assert held == []


async def test_no_claim_is_missing() -> None:
    assert await refusal(None) == "claim_missing"


async def test_a_token_of_another_tenants_is_refused_whoever_signed_it() -> None:
    assert await refusal(minted(tenant=uuid.uuid4())) == "claim_issuer"


# --- tokens that come again --------------------------------------------------------------------------------------


class Withdrawable:
    """Published keys that can be taken back, and how often they were asked for."""

    def __init__(self) -> None:
        self.there = True

    async def find(self, issuer: Issuer, kid: str) -> SigningKey | None:
        return await Published().find(issuer, kid) if self.there else None


def with_keys(keys: Withdrawable) -> EntraAuthority:
    return EntraAuthority(
        keys,
        issuers=issuers([TENANT], authority=AUTHORITY, authority_v1=AUTHORITY),
        audiences=[AUDIENCE],
        algorithms=["RS256"],
        skew_seconds=SKEW,
        max_age_seconds=DAY,
        now=lambda: datetime.now(UTC),
    )


async def test_a_signature_is_checked_once_while_its_key_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[Jws] = []
    check = Jws.require_signature

    def counted(self: Jws, key: SigningKey, algorithms: Collection[str]) -> None:
        checks.append(self)
        check(self, key, algorithms)

    monkeypatch.setattr(Jws, "require_signature", counted)
    one, token, other = with_keys(Withdrawable()), SecretStr(minted()), SecretStr(minted())
    proven = [await one.authenticate(Evidence(claim, datetime.now(UTC))) for claim in (token, token, other, token)]
    assert len(checks) == 2
    assert proven[0] == proven[1] == proven[3]


async def test_a_token_that_held_before_is_still_judged_by_its_key_and_its_time() -> None:
    keys = Withdrawable()
    one, token = with_keys(keys), SecretStr(minted(lifetime_seconds=600))
    now = datetime.now(UTC)
    await one.authenticate(Evidence(token, now))
    with pytest.raises(Refused) as late:
        await one.authenticate(Evidence(token, now + timedelta(seconds=600 + SKEW + 2)))
    keys.there = False
    with pytest.raises(Refused) as withdrawn:
        await one.authenticate(Evidence(token, now))
    assert (late.value.code, withdrawn.value.code) == ("claim_expired", "claim_invalid")


async def test_a_token_that_did_not_hold_is_looked_at_again() -> None:
    keys = Withdrawable()
    keys.there = False
    one, token = with_keys(keys), SecretStr(minted())
    with pytest.raises(Refused):
        await one.authenticate(Evidence(token, datetime.now(UTC)))
    keys.there = True
    assert (await one.authenticate(Evidence(token, datetime.now(UTC)))).principal.oid == ADA
