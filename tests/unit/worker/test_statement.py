"""The gateway's statements: what a worker accepts, and every way in which a text is no valid statement."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from flow_contracts.request import FlowRequest
from flow_worker.access import jws
from flow_worker.access.authorities import ProvenSender
from flow_worker.access.input_hash import input_hash
from flow_worker.access.principal import Principal
from flow_worker.access.statement import Statement, StatementSigner, verify
from flow_worker.access.statement_keys import StatementKey, new_signing_key

KEY = new_signing_key()
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
TENANT, USER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
SENDER = ProvenSender(
    Principal(TENANT, USER, "user", frozenset({"Quotes.Start"}), "entra"), {"scp": "flows", "azp": "x"}
)
REQUEST = FlowRequest(
    flow="create-quote", input={"amount": 1.5}, message_id="m1", correlation_id="m1", reply_to_session_id="m1"
)


class Keys:
    """The public keys of these tests."""

    async def find(self, kid: str) -> StatementKey | None:
        return KEY.verifying if kid == KEY.kid else None


def signed(request: FlowRequest = REQUEST, sender: ProvenSender = SENDER) -> str:
    signer = StatementSigner(
        KEY, issuer="flow-gateway", queue="Requests", lifetime_seconds=120, binding_claim="nonce", now=lambda: NOW
    )
    claim = signer.signed(request, sender).claim
    assert isinstance(claim, SecretStr)
    return claim.get_secret_value()


async def test_a_statement_names_its_principal_and_its_one_request() -> None:
    statement = await verify(signed(), Keys())

    assert isinstance(statement, Statement)
    assert statement.principal == Principal(TENANT, USER, "user", frozenset({"Quotes.Start"}), "gateway")
    assert (statement.request.queue, statement.request.message_id, statement.request.flow) == (
        "requests",
        "m1",
        "create-quote",
    )
    assert statement.request.input_sha256 == input_hash({"amount": 1.5})
    assert (statement.expires_at - statement.issued_at, statement.scopes, statement.client) == (120, "flows", "x")


async def test_a_foreign_key_signs_no_statement() -> None:
    other = new_signing_key()
    signer = StatementSigner(
        other, issuer="flow-gateway", queue="requests", lifetime_seconds=120, binding_claim="nonce", now=lambda: NOW
    )
    claim = signer.signed(REQUEST, SENDER).claim
    assert claim is not None

    with pytest.raises(jws.BadToken, match="does not have"):
        await verify(claim.get_secret_value(), Keys())
