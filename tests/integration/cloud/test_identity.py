"""The managed-identity endpoint, called by the real azure-identity."""

import asyncio
import time

import azure.identity
import azure.identity.aio
import httpx
import jwt
import pytest
from azure.core.exceptions import ClientAuthenticationError

from servicebus_emulator.cloud.entra.definitions import (
    FLOW_AUDIENCE,
    MANAGED_IDENTITY_CLIENT_ID,
    MANAGED_IDENTITY_OBJECT_ID,
    TENANT_ID,
)
from servicebus_emulator.cloud.web import Web

SCOPE = f"{FLOW_AUDIENCE}/.default"


@pytest.fixture(autouse=True)
def _the_host_has_an_identity(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in web.environment().items():
        monkeypatch.setenv(name, value)


def claims_of(token: str) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


def blocking_token(scope: str, client_id: str | None = None) -> str:
    with azure.identity.ManagedIdentityCredential(client_id=client_id) as credential:
        token: str = credential.get_token(scope).token
        return token


async def test_the_blocking_credential_gets_the_managed_identitys_token() -> None:
    claims = claims_of(await asyncio.to_thread(blocking_token, SCOPE))
    assert claims["aud"] == FLOW_AUDIENCE
    assert claims["tid"] == str(TENANT_ID)
    assert claims["oid"] == str(MANAGED_IDENTITY_OBJECT_ID)
    assert claims["appid"] == str(MANAGED_IDENTITY_CLIENT_ID)
    assert claims["idtyp"] == "app"


async def test_the_asynchronous_credential_caches_the_token(web: Web) -> None:
    async with azure.identity.aio.ManagedIdentityCredential() as credential:
        first = await credential.get_token(SCOPE)
        second = await credential.get_token(SCOPE)
    assert claims_of(first.token)["aud"] == FLOW_AUDIENCE
    assert first.token == second.token
    assert abs(first.expires_on - (time.time() + 86_400)) < 60
    assert web.identity.calls == 1


async def test_a_scope_with_one_slash_gives_an_audience_without_its_slash() -> None:
    claims = claims_of(await asyncio.to_thread(blocking_token, "https://service.flow.microsoft.com/.default"))
    assert claims["aud"] == "https://service.flow.microsoft.com"


async def test_the_identity_can_be_selected_by_its_client_id() -> None:
    assert await asyncio.to_thread(blocking_token, SCOPE, str(MANAGED_IDENTITY_CLIENT_ID))


async def test_another_client_id_is_refused(web: Web, client: httpx.AsyncClient) -> None:
    async with azure.identity.aio.ManagedIdentityCredential(client_id=str(TENANT_ID)) as credential:
        with pytest.raises(ClientAuthenticationError):
            await credential.get_token(SCOPE)
    answer = await client.get(
        web.identity_endpoint,
        params={"api-version": "2019-08-01", "resource": FLOW_AUDIENCE, "client_id": str(TENANT_ID)},
        headers={"X-IDENTITY-HEADER": web.identity_header},
    )
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("No User Assigned or Delegated Managed Identity found")


@pytest.mark.parametrize(
    ("query", "header", "status"),
    [
        ("api-version=2019-08-01&resource=r", "wrong", 401),
        ("api-version=2019-08-01&resource=r", None, 401),
        ("api-version=2018-02-01&resource=r", "right", 400),
        ("resource=r", "right", 400),
        ("api-version=2019-08-01", "right", 400),
        ("api-version=2019-08-01&resource=r&mi_res_id=x", "right", 400),
    ],
)
async def test_a_call_that_violates_the_protocol_is_refused(
    web: Web, client: httpx.AsyncClient, query: str, header: str | None, status: int
) -> None:
    headers = {} if header is None else {"X-IDENTITY-HEADER": header.replace("right", web.identity_header)}
    answer = await client.get(f"{web.identity_endpoint}?{query}", headers=headers)
    assert answer.status_code == status
    body = answer.json()
    assert body["statusCode"] == status
    assert body["correlationId"]
    assert web.identity_header not in answer.text


async def test_an_injected_fault_ends_after_its_number_of_calls(web: Web, client: httpx.AsyncClient) -> None:
    patch = {"faults": [{"kind": "html", "status": 200, "next_calls": 1}], "token_lifetime_seconds": 600}
    assert (await client.put(f"{web.url}/emulator/identity", json=patch)).status_code == 200
    async with azure.identity.aio.ManagedIdentityCredential() as credential:
        with pytest.raises(ClientAuthenticationError):
            await credential.get_token(SCOPE)
        token = await credential.get_token(SCOPE)
    assert token.expires_on - time.time() < 601
    assert (await client.get(f"{web.url}/emulator/identity")).json() == {"calls": 2}


async def test_the_refusal_of_a_control_request_names_the_field(web: Web, client: httpx.AsyncClient) -> None:
    answer = await client.put(f"{web.url}/emulator/identity", json={"faults": [{"kind": "hang", "next_call": 1}]})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "faults[0].next_call: no such field; check its spelling"
