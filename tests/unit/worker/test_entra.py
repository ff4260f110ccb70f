"""The entra authority: valid tokens, and every way in which a token can be wrong."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import JsonValue, SecretStr

from flow_worker.access.authorities import Evidence
from flow_worker.access.entra import ClaimLimits, EntraAuthority, SigningKeys
from flow_worker.access.issuer import Issuer, issuers_of
from flow_worker.access.jws import Jws, SigningKey
from flow_worker.access.keys import published_key
from flow_worker.access.principal import Principal
from flow_worker.errors import Refused
from servicebus_emulator.cloud.entra.bad_tokens import mint_bad_tokens
from servicebus_emulator.cloud.entra.bad_tokens.mint import Mint, changed, encode
from servicebus_emulator.cloud.entra.definitions import IdentityDefinition
from servicebus_emulator.cloud.entra.issuer import FRONT_END_CLIENT_ID, TokenRequest, object_id_of
from servicebus_emulator.cloud.entra.issuer import Issuer as TokenIssuer

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
    """The issuer's published keys, as the worker reads a key set."""

    async def find(self, issuer: Issuer, kid: str) -> SigningKey | None:
        entries = json.loads(json.dumps(ISSUER.key_set()))["keys"]
        return next((key for entry in entries if entry["kid"] == kid and (key := published_key(entry, issuer))), None)


def authority(
    *,
    now: datetime | None = None,
    algorithms: tuple[str, ...] = ("RS256",),
    audiences: Collection[str] = (AUDIENCE, "guid"),
    limits: ClaimLimits = ClaimLimits(),  # noqa: B008 - frozen
    keys: SigningKeys | None = None,
) -> EntraAuthority:
    return EntraAuthority(
        keys or Published(),
        issuers=issuers_of([TENANT], authority=AUTHORITY, authority_v1=AUTHORITY),
        audiences=audiences,
        algorithms=algorithms,
        skew_seconds=SKEW,
        max_age_seconds=DAY,
        now=lambda: now or datetime.now(UTC),
        limits=limits,
    )


def minted(**wanted: object) -> str:
    return ISSUER.mint(TokenRequest.model_validate({"user": "ada", "roles": [ROLE], **wanted}))


async def principal_of(token: str, at: datetime | None = None) -> Principal:
    return (await authority().authenticate(Evidence(SecretStr(token), at or datetime.now(UTC)))).principal


async def refusal(token: str | None, at: datetime | None = None, *, now: datetime | None = None) -> str:
    """Return the result code; "none" for a proven sender with the role, `role_missing` for one without it."""
    claim = None if token is None else SecretStr(token)
    try:
        proven = await authority(now=now).authenticate(Evidence(claim, at or datetime.now(UTC)))
    except Refused as error:
        refused = error
    else:
        return "none" if ROLE in proven.principal.roles else ROLE_MISSING
    assert not token or token not in refused.message
    assert refused.message.isascii()
    return refused.code


# --- the principal of a token ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("audience", [AUDIENCE, "guid"])
async def test_a_users_token_proves_a_user(version: str, audience: str) -> None:
    principal = await principal_of(minted(version=version, audience=audience))
    assert principal == Principal(TENANT, ADA, "user", frozenset({ROLE}), "entra")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("claims", [{}, {"idtyp": None}])
async def test_an_applications_token_proves_an_application(version: str, claims: Mapping[str, JsonValue]) -> None:
    principal = await principal_of(minted(app=True, version=version, claims=claims))
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
async def test_a_token_that_is_no_access_token_is_refused(
    claims: Mapping[str, JsonValue],
) -> None:
    """An ID token has no `scp`; if front end and API share a registration, it has the worker's audience."""
    assert await refusal(minted(claims=claims)) == "claim_invalid"


async def test_a_role_that_a_token_only_refers_to_is_not_held() -> None:
    overage: dict[str, JsonValue] = {"hasgroups": True, "_claim_names": {"groups": "src1", "roles": "src1"}}
    assert (await principal_of(minted(claims=overage))).roles == {ROLE}
    assert (await principal_of(minted(roles=[], claims=overage))).roles == frozenset()


async def test_a_proven_sender_carries_the_token_claims_and_hides_them_from_repr() -> None:
    proven = await authority().authenticate(Evidence(SecretStr(minted(claims={"nonce": "n"})), datetime.now(UTC)))
    assert proven.claims["nonce"] == "n"
    assert "nonce" not in repr(proven)


# --- times -------------------------------------------------------------------------------------------------------


async def test_times_are_judged_at_the_enqueue_time_with_the_clock_skew() -> None:
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


async def test_a_request_older_than_the_age_limit_is_refused_although_its_claim_was_valid() -> None:
    sent = datetime.now(UTC)
    token = minted(lifetime_seconds=600)
    assert await refusal(token, sent, now=sent + timedelta(days=1)) == "none"
    assert await refusal(token, sent, now=sent + timedelta(days=1, seconds=1)) == "request_too_old"


def valid_token(header: Mapping[str, JsonValue], **claims: JsonValue) -> str:
    """Return a valid token with these header members and claims; None removes a member."""
    mint = Mint(ISSUER, ISSUER.claims(TokenRequest(user="ada", roles=(ROLE,))))
    members = {**mint.valid_header, **header}
    kept = {name: value for name, value in members.items() if value is not None}
    return mint.signed(encode(kept), encode(changed(mint.valid_claims, claims)))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/JWT", None])
async def test_the_types_of_an_access_token_are_accepted_in_every_spelling(kind: str | None) -> None:
    assert await refusal(valid_token({"typ": kind})) == "none"


async def test_a_managed_identitys_token_of_a_day_is_accepted_although_entra_dates_it_back() -> None:
    now = int(datetime.now(UTC).timestamp())
    assert await refusal(valid_token({}, iat=now - SKEW, nbf=now - SKEW, exp=now + DAY)) == "none"
    assert await refusal(valid_token({}, iat=None)) == "none"


# --- clients and scopes ------------------------------------------------------------------------------------------

OTHER_CLIENT = "99999999-0000-0000-0000-000000000009"


async def code_with(limits: ClaimLimits, token: str) -> str | None:
    try:
        await authority(limits=limits).authenticate(Evidence(SecretStr(token), datetime.now(UTC)))
    except Refused as refused:
        return refused.code
    return None


@pytest.mark.parametrize(("version", "claim", "other"), [("1.0", "appid", "azp"), ("2.0", "azp", "appid")])
async def test_only_the_listed_clients_get_in_by_the_claim_of_the_tokens_version(
    version: str, claim: str, other: str
) -> None:
    limits = ClaimLimits(clients=frozenset({FRONT_END_CLIENT_ID}))
    assert await code_with(limits, minted(version=version)) is None
    for claims in (
        {claim: OTHER_CLIENT},
        {claim: None},
        {claim: None, other: FRONT_END_CLIENT_ID},
        {claim: OTHER_CLIENT, other: FRONT_END_CLIENT_ID},
        {claim: FRONT_END_CLIENT_ID.upper()},
        {claim: f" {FRONT_END_CLIENT_ID}"},
        {claim: ""},
    ):
        assert await code_with(limits, minted(version=version, claims=claims)) == "claim_client"
    assert await code_with(limits, minted(version=version, app=True)) == "claim_client"


@pytest.mark.parametrize("version", ["1.0", "2.0"])
async def test_a_user_needs_one_of_the_listed_scopes_and_an_application_none(version: str) -> None:
    limits = ClaimLimits(scopes=frozenset({"Flows.Start", "access_as_user"}))
    for scopes in ("access_as_user", "Other.Read Flows.Start", "Flows.Start access_as_user"):
        assert await code_with(limits, minted(version=version, claims={"scp": scopes})) is None
    for scopes in (
        "Other.Read",
        "flows.start",
        "Flows.Start.All",
        "xFlows.Start",
        "Flows.Start\u00a0x",
        "a,Flows.Start",
    ):
        assert await code_with(limits, minted(version=version, claims={"scp": scopes})) == "claim_scope"
    assert await code_with(limits, minted(version=version, app=True)) is None


# --- application-specific keys -----------------------------------------------------------------------------------

CLIENT = "77777777-0000-4000-8000-000000000007"
OTHER = "88888888-0000-4000-8000-000000000008"


class PublishedByApplication(Published):
    """The issuer's published keys, with those of two applications."""

    async def find(self, issuer: Issuer, kid: str) -> SigningKey | None:
        for client in (CLIENT, OTHER):
            for entry in json.loads(json.dumps(ISSUER.key_set(client)))["keys"]:
                if entry["kid"] == kid and entry["kid"] != ISSUER.key.kid:
                    return published_key(entry, issuer, client)
        return await super().find(issuer, kid)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(
    ("audiences", "audience", "code"),
    [
        ([CLIENT], CLIENT, None),
        ([f"api://{CLIENT}"], f"api://{CLIENT}", None),
        ([f"api://{TENANT}/{CLIENT}"], f"api://{TENANT}/{CLIENT}", None),
        ([CLIENT.upper()], CLIENT.upper(), None),
        ([CLIENT, "api://flow-worker"], "api://flow-worker", None),
        ([CLIENT, OTHER], OTHER, "claim_invalid"),
        ([CLIENT, OTHER, "api://flow-worker"], "api://flow-worker", "claim_invalid"),
        (["api://flow-worker"], "api://flow-worker", "claim_invalid"),
    ],
)
async def test_an_applications_key_signs_only_for_the_audience_of_that_application(
    version: str, audiences: list[str], audience: str, code: str | None
) -> None:
    token = minted(version=version, audience=audience, application_key=CLIENT)
    one = authority(audiences=audiences, keys=PublishedByApplication())
    for _ in range(2):  # verified, and from the cache
        try:
            await one.authenticate(Evidence(SecretStr(token), datetime.now(UTC)))
            found = None
        except Refused as refused:
            found = refused.code
        assert found == code


# --- wrong tokens ------------------------------------------------------------------------------------------------

CODES = {
    "audience": {f"aud_{name}" for name in ("graph", "graph_id", "dataverse", "flow", "shorter", "with_more", "upper")}
    | {"aud_with_a_slash", "aud_with_a_scope", "aud_empty"},
    "issuer": {"tid_of_another_tenant", "ver_unknown", "missing_iss", "null_iss"},
    "expired": {"expired"},
    "not_yet_valid": {"not_yet_valid", "issued_later"},
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


async def test_a_wrong_token_stays_wrong_where_more_algorithms_are_allowed() -> None:
    """The issuer names the algorithm of its key, and another one does not count."""
    more = authority(algorithms=("RS256", "PS256"))
    accepted = []
    for name, token in wrong("2.0").items():
        try:
            proven = await more.authenticate(Evidence(SecretStr(token), datetime.now(UTC)))
        except Refused:
            continue
        accepted += [name] if ROLE in proven.principal.roles else []
    assert accepted == []


async def test_a_request_without_claim_is_refused() -> None:
    assert await refusal(None) == "claim_missing"


async def test_a_token_of_another_tenant_is_refused_although_its_signature_is_valid() -> None:
    assert await refusal(minted(tenant=uuid.uuid4())) == "claim_issuer"


# --- the cache of verified tokens --------------------------------------------------------------------------------


class WithdrawableKeys:
    """Published keys that the issuer can withdraw."""

    def __init__(self) -> None:
        self.published = True

    async def find(self, issuer: Issuer, kid: str) -> SigningKey | None:
        return await Published().find(issuer, kid) if self.published else None


def with_keys(keys: WithdrawableKeys) -> EntraAuthority:
    return EntraAuthority(
        keys,
        issuers=issuers_of([TENANT], authority=AUTHORITY, authority_v1=AUTHORITY),
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
    one, token, other = with_keys(WithdrawableKeys()), SecretStr(minted()), SecretStr(minted())
    proven = [await one.authenticate(Evidence(claim, datetime.now(UTC))) for claim in (token, token, other, token)]
    assert len(checks) == 2
    assert proven[0] == proven[1] == proven[3]


async def test_a_cached_token_is_still_judged_by_its_key_and_its_time() -> None:
    keys = WithdrawableKeys()
    one, token = with_keys(keys), SecretStr(minted(lifetime_seconds=600))
    now = datetime.now(UTC)
    await one.authenticate(Evidence(token, now))
    with pytest.raises(Refused) as late:
        await one.authenticate(Evidence(token, now + timedelta(seconds=600 + SKEW + 2)))
    keys.published = False
    with pytest.raises(Refused) as withdrawn:
        await one.authenticate(Evidence(token, now))
    assert (late.value.code, withdrawn.value.code) == ("claim_expired", "claim_invalid")


async def test_a_refused_token_is_not_cached() -> None:
    keys = WithdrawableKeys()
    keys.published = False
    one, token = with_keys(keys), SecretStr(minted())
    with pytest.raises(Refused):
        await one.authenticate(Evidence(token, datetime.now(UTC)))
    keys.published = True
    assert (await one.authenticate(Evidence(token, datetime.now(UTC)))).principal.oid == ADA
