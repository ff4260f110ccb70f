"""The authority `gateway`: a statement opens the one request that it names, at its time, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from flow_worker.access.authorities import BoundRequest, Evidence
from flow_worker.access.entra import ClaimLimits
from flow_worker.access.gateway import GatewayAuthority
from flow_worker.access.principal import Principal
from flow_worker.access.rights import Asserters
from flow_worker.access.statement import Statement, StatementKeys, sign
from flow_worker.access.statement_keys import StatementKey, new_signing_key
from flow_worker.errors import Refused, TemporarilyUnavailable

KEY = new_signing_key()
ISSUED = datetime(2026, 12, 1, 12, tzinfo=UTC)
TENANT, USER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
REQUEST = BoundRequest("requests", "m1", "create-quote", "0" * 64)
STATEMENT = Statement(
    gateway="flow-gateway",
    request=REQUEST,
    principal=Principal(TENANT, USER, "user", frozenset({"Quotes.Start"}), "gateway"),
    issued_at=int(ISSUED.timestamp()),
    expires_at=int(ISSUED.timestamp()) + 120,
    client="33333333-3333-4333-8333-333333333333",
    scopes="flows other",
)


class Keys:
    """The public keys of these tests; None: not at hand."""

    def __init__(self, key: StatementKey | None = KEY.verifying) -> None:
        self.key = key

    async def find(self, kid: str) -> StatementKey | None:
        if self.key is None:
            raise TemporarilyUnavailable("statement_keys_unavailable", "no file")
        return self.key if kid == self.key.kid else None


def authority(keys: StatementKeys | None = None, **settings: Any) -> GatewayAuthority:
    defaults: dict[str, Any] = {
        "issuer": "flow-gateway",
        "tenants": [TENANT],
        "limits": ClaimLimits(),
        "binding_claim": "nonce",
        "skew_seconds": 300,
        "max_age_seconds": 86_400.0,
        "now": lambda: ISSUED + timedelta(hours=1),
    }
    return GatewayAuthority(keys or Keys(), **(defaults | settings))


def evidence(
    statement: Statement | None = STATEMENT, request: BoundRequest = REQUEST, *, after: float = 1.0
) -> Evidence:
    claim = None if statement is None else SecretStr(sign(statement, KEY))
    return Evidence(claim, ISSUED + timedelta(seconds=after), request=request)


async def code(shown: Evidence, **settings: Any) -> str:
    with pytest.raises(Refused) as refused:
        await authority(**settings).authenticate(shown)
    assert USER not in refused.value.message
    return refused.value.code


async def test_a_statement_proves_its_principal_with_its_roles() -> None:
    proven = await authority().authenticate(evidence())
    assert proven.principal == STATEMENT.principal
    assert proven.claims == {}


async def test_a_binding_of_the_users_token_is_handed_on() -> None:
    proven = await authority(binding_claim="bind").authenticate(evidence(replace(STATEMENT, bound_to="m1")))
    assert proven.claims == {"bind": "m1"}


@pytest.mark.parametrize(
    "other",
    [
        {"message_id": "m2"},
        {"message_id": "M1"},
        {"queue": "other"},
        {"flow": "delete-everything"},
        {"flow": "Create-Quote"},
        {"input_sha256": "1" * 64},
        {"on_behalf_of": USER},
    ],
    ids=str,
)
async def test_a_statement_opens_no_other_request(other: dict[str, Any]) -> None:
    """The replay of a stolen statement: with another message ID, queue, flow, input or user."""
    assert await code(evidence(request=replace(REQUEST, **other))) == "claim_not_bound"
    assert await code(evidence(replace(STATEMENT, request=replace(REQUEST, **other)))) == "claim_not_bound"


async def test_a_request_without_a_statement_is_refused() -> None:
    assert await code(evidence(None)) == "claim_missing"
    assert await code(replace(evidence(), request=None)) == "claim_missing"


@pytest.mark.parametrize("text", ["", "x", "eyJ.eyJ.eyJ", "a" * 100_000])
async def test_a_text_that_is_no_statement_is_refused(text: str) -> None:
    assert await code(replace(evidence(), claim=SecretStr(text))) == "claim_invalid"


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (-301, "claim_not_yet_valid"),
        (-299, None),
        (0, None),
        (419, None),
        (421, "claim_expired"),
        (86_000, "claim_expired"),
    ],
)
async def test_the_times_are_judged_at_the_brokers_enqueue_time(after: float, expected: str | None) -> None:
    # The time that the request waited in the queue does not matter.
    now: dict[str, Any] = {"now": lambda: ISSUED + timedelta(hours=23)}
    if expected is None:
        await authority(**now).authenticate(evidence(after=after))
    else:
        assert await code(evidence(after=after), **now) == expected


async def test_a_request_that_waited_too_long_is_refused() -> None:
    assert await code(evidence(), now=lambda: ISSUED + timedelta(hours=25)) == "request_too_old"


@pytest.mark.parametrize("lifetime", [0, -1, -86_400, 3601, 10**9])
async def test_a_lifetime_that_no_gateway_gives_is_refused(lifetime: int) -> None:
    changed = replace(STATEMENT, expires_at=STATEMENT.issued_at + lifetime)
    assert await code(evidence(changed)) == "claim_invalid"


async def test_the_workers_own_settings_hold_for_what_a_gateway_states() -> None:
    assert await code(evidence(), issuer="other-gateway") == "claim_issuer"
    assert await code(evidence(), tenants=[USER]) == "claim_issuer"
    assert await code(evidence(), limits=ClaimLimits(clients=frozenset({USER}))) == "claim_client"
    assert await code(evidence(replace(STATEMENT, client=None)), limits=ClaimLimits(clients=frozenset({USER}))) == (
        "claim_client"
    )
    assert await code(evidence(), limits=ClaimLimits(scopes=frozenset({"admin"}))) == "claim_scope"
    assert await code(evidence(replace(STATEMENT, scopes=None)), limits=ClaimLimits(scopes=frozenset({"flows"}))) == (
        "claim_scope"
    )
    await authority(limits=ClaimLimits(scopes=frozenset({"flows"}))).authenticate(evidence())
    app = replace(STATEMENT, principal=replace(STATEMENT.principal, kind="app"), scopes=None)
    await authority(limits=ClaimLimits(scopes=frozenset({"flows"}))).authenticate(evidence(app))


async def test_without_its_keys_the_worker_neither_accepts_nor_refuses() -> None:
    with pytest.raises(TemporarilyUnavailable, match="no file"):
        await authority(Keys(None)).authenticate(evidence())


async def test_a_withdrawn_key_proves_nothing_from_the_next_request_on() -> None:
    keys = Keys()
    judge = authority(keys)
    await judge.authenticate(evidence())
    keys.key = new_signing_key().verifying
    with pytest.raises(Refused, match="does not have"):
        await judge.authenticate(evidence())


def test_an_asserter_is_one_through_a_gateway_too_and_a_user_never() -> None:
    asserters = Asserters({USER})
    assert asserters.admit(replace(STATEMENT.principal, kind="app"))
    assert not asserters.admit(STATEMENT.principal)
