"""HTTP-triggered flows: authorization, refusals, and the headers of an answer."""

import logging

import httpx
import jwt
import pytest

from servicebus_emulator.cloud.entra.definitions import FLOW_AUDIENCE, MANAGED_IDENTITY_OBJECT_ID
from servicebus_emulator.cloud.web import Web

QUOTE = {"customer": "Contoso", "amount": 1250}
OTHER_OBJECT = "99999999-8888-4777-8666-555555555555"


async def mint(web: Web, client: httpx.AsyncClient, **changes: object) -> dict[str, str]:
    """Return a bearer header with the managed identity's token, after these changes to the token request."""
    request = {"user": str(MANAGED_IDENTITY_OBJECT_ID), "audience": FLOW_AUDIENCE}
    answer = await client.post(f"{web.url}/emulator/token", json=request | changes)
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def put(web: Web, client: httpx.AsyncClient, name: str, **definition: object) -> None:
    answer = await client.put(f"{web.url}/emulator/flows/{name}", json=definition)
    assert answer.status_code == 200, answer.text


async def calls(web: Web, client: httpx.AsyncClient, name: str) -> list[dict[str, object]]:
    answer = await client.get(f"{web.url}/emulator/flows/{name}/calls")
    records: list[dict[str, object]] = answer.json()["calls"]
    return records


def check_refusal(answer: httpx.Response, status: int, code: str) -> str:
    """Check that the platform refused the call before a run. Return the message."""
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert "x-ms-workflow-run-id" not in answer.headers
    assert answer.headers["x-ms-request-id"]
    message: str = answer.json()["error"]["message"]
    return message


async def test_the_managed_identity_starts_a_flow_and_the_answer_names_the_run(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    answer = await client.post(web.flow_url("create-quote"), json=QUOTE, headers=bearer)
    assert answer.status_code == 200
    run_id = answer.headers["x-ms-workflow-run-id"]
    assert answer.json() == {
        "quote": f"Q-{run_id}",
        "customer": "Contoso",
        "amount": 1250,
        "text": "1250 for Contoso",
    }
    assert answer.headers["x-ms-client-tracking-id"] == run_id
    assert answer.headers["x-ms-trigger-history-name"] == run_id
    assert answer.headers["x-ms-workflow-name"] == "create-quote"
    for name in ("correlation-id", "request-id", "tracking-id", "workflow-id", "workflow-version"):
        assert answer.headers[f"x-ms-{name}"]
    assert answer.headers["x-ms-execution-location"]


async def test_the_answer_has_the_callers_tracking_id_and_the_record_lacks_the_bearer(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {**bearer, "x-ms-client-tracking-id": "order-7", "traceparent": traceparent}
    answer = await client.post(web.flow_url("create-quote"), json=QUOTE, headers=headers)
    assert answer.headers["x-ms-client-tracking-id"] == "order-7"
    record = await client.get(f"{web.url}/emulator/flows/create-quote/calls")
    (call,) = record.json()["calls"]
    assert call["run_id"] == answer.headers["x-ms-workflow-run-id"]
    assert (call["client_tracking_id"], call["traceparent"]) == ("order-7", traceparent)
    assert (call["body"], call["status"], call["code"]) == (QUOTE, 200, None)
    assert call["time"].endswith("+00:00")
    assert bearer["Authorization"].removeprefix("Bearer ") not in record.text


async def test_a_flow_without_a_response_action_answers_202_at_once(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    answer = await client.post(web.flow_url("notify-team"), json={}, headers=bearer)
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["x-ms-workflow-run-id"]


async def test_a_broken_flow_answers_no_response_although_its_run_began(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    answer = await client.post(web.flow_url("broken-approval"), json={}, headers=bearer)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "NoResponse")
    assert answer.headers["x-ms-workflow-run-id"]


async def test_an_unknown_flow_is_404(web: Web, client: httpx.AsyncClient, bearer: dict[str, str]) -> None:
    answer = await client.post(web.flow_url("nobody"), json={}, headers=bearer)
    check_refusal(answer, 404, "WorkflowNotFound")
    assert (await client.get(f"{web.url}/emulator/flows/nobody/calls")).status_code == 404


async def test_a_call_without_a_bearer_is_refused(web: Web, client: httpx.AsyncClient) -> None:
    answer = await client.post(web.flow_url("create-quote"), json=QUOTE)
    check_refusal(answer, 401, "DirectApiAuthorizationRequired")
    (call,) = await calls(web, client, "create-quote")
    assert (call["run_id"], call["status"], call["code"]) == (None, 401, "DirectApiAuthorizationRequired")


@pytest.mark.parametrize(
    "authorization", ["Basic YTpi", "Bearer", "Bearer x.y.z", "Bearer \u00e9", "SharedAccessKey k"]
)
async def test_another_scheme_or_a_malformed_token_is_an_invalid_scheme(
    web: Web, client: httpx.AsyncClient, authorization: str
) -> None:
    headers = [(b"Authorization", authorization.encode())]
    answer = await client.post(web.flow_url("create-quote"), json=QUOTE, headers=headers)
    check_refusal(answer, 401, "DirectApiInvalidAuthorizationScheme")


@pytest.mark.parametrize(
    "changes",
    [
        {"forged": True},
        {"unknown_kid": True},
        {"algorithm": "none"},
        {"algorithm": "HS256"},
        {"lifetime_seconds": -301},
    ],
)
async def test_a_forged_or_expired_token_is_an_invalid_scheme(
    web: Web, client: httpx.AsyncClient, changes: dict[str, object]
) -> None:
    headers = await mint(web, client, **changes)
    answer = await client.post(web.flow_url("create-quote"), json=QUOTE, headers=headers)
    check_refusal(answer, 401, "DirectApiInvalidAuthorizationScheme")


@pytest.mark.parametrize(
    "changes",
    [
        {"audience": "https://service.flow.microsoft.com"},
        {"audience": "api://flow-worker"},
        {"claims": {"aud": None}},
        {"claims": {"aud": [FLOW_AUDIENCE]}},
        {"claims": {"iss": ["x"]}},
        {"tenant": OTHER_OBJECT},
        {"claims": {"tid": OTHER_OBJECT}},
        {"issuer": "https://sts.windows.net/x/"},
        {"user": "ada"},
        {"claims": {"oid": None}},
    ],
)
async def test_a_token_with_a_bad_claim_does_not_match_the_policy(
    web: Web, client: httpx.AsyncClient, changes: dict[str, object]
) -> None:
    headers = await mint(web, client, **changes)
    answer = await client.post(web.flow_url("create-quote"), json=QUOTE, headers=headers)
    assert "access control policy" in check_refusal(answer, 403, "MisMatchingOAuthClaims")


async def test_the_log_names_the_mismatching_claim_and_not_the_token(
    web: Web, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="servicebus_emulator")
    headers = await mint(web, client, audience="https://service.flow.microsoft.com")
    await client.post(web.flow_url("create-quote"), json=QUOTE, headers=headers)
    (line,) = [
        record.getMessage()
        for record in caplog.records
        if record.name == "servicebus_emulator.cloud.flows.trigger_guard"
    ]
    assert "{'aud': 'https://service.flow.microsoft.com'}" in line
    assert headers["Authorization"].removeprefix("Bearer ") not in caplog.text


async def test_a_flow_may_admit_other_object_ids_or_the_whole_tenant(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    ada = await mint(web, client, user=OTHER_OBJECT)
    await put(web, client, "create-quote", allowed_object_ids=[OTHER_OBJECT])
    assert (await client.post(web.flow_url("create-quote"), json=QUOTE, headers=ada)).status_code == 200
    refused = await client.post(web.flow_url("create-quote"), json=QUOTE, headers=bearer)
    check_refusal(refused, 403, "MisMatchingOAuthClaims")
    await put(web, client, "create-quote", allowed_object_ids=[])
    assert (await client.post(web.flow_url("create-quote"), json=QUOTE, headers=bearer)).status_code == 200


async def test_a_signature_in_the_url_beside_a_bearer_is_more_than_one_authorization(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    url = f"{web.flow_url('create-quote')}&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=abc"
    both = await client.post(url, json=QUOTE, headers=bearer)
    check_refusal(both, 401, "DirectApiRequestHasMoreThanOneAuthorization")
    alone = await client.post(url, json=QUOTE)
    assert "SAS" in check_refusal(alone, 401, "DirectApiInvalidAuthorizationScheme")


@pytest.mark.parametrize(
    ("content", "content_type", "detail"),
    [
        (b'{"customer": "Contoso"}', "application/json", "'amount' is a required property"),
        (b'{"customer": "Contoso", "amount": -1}', "application/json", "$.amount"),
        (b'{"customer": null, "amount": 1}', "application/json", "Expected String but got Null"),
        (b'{"customer": "Contoso", "amount": 1}', "text/plain", "Expected Object but got String"),
        (b'{"customer": "Contoso", ', "application/json", "Expected Object but got String"),
        (b"", "application/json", "Expected Object but got Null"),
        (b"[" * 100_000, "application/json", "Expected Object but got String"),
    ],
)
async def test_input_that_violates_the_schema_is_refused(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str], content: bytes, content_type: str, detail: str
) -> None:
    headers = {**bearer, "Content-Type": content_type}
    answer = await client.post(web.flow_url("create-quote"), content=content, headers=headers)
    assert detail in check_refusal(answer, 400, "TriggerInputSchemaMismatch")


@pytest.mark.parametrize("state", ["Suspended", "Stopped", "Deleted"])
async def test_a_disabled_flow_answers_400(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str], state: str
) -> None:
    await put(web, client, "create-quote", state=state)
    answer = await client.post(web.flow_url("create-quote"), json=QUOTE, headers=bearer)
    assert f"state '{state}'" in check_refusal(answer, 400, "WorkflowTriggerIsNotEnabled")


async def test_a_method_other_than_the_triggers_is_refused(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    check_refusal(await client.get(web.flow_url("create-quote"), headers=bearer), 405, "MethodNotAllowed")


async def test_a_flow_defined_at_run_time_answers_with_its_response_action(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    response = {"status": 409, "headers": {"X-Own": "1", "Set-Cookie": "a=b", "Content-Length": "3"}, "body": "taken"}
    await put(web, client, "book", response=response)
    answer = await client.post(web.flow_url("book"), json={}, headers=bearer)
    assert (answer.status_code, answer.text) == (409, "taken")
    assert answer.headers["x-own"] == "1"
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-type"].startswith("text/plain")
    await put(web, client, "book", response={"echo": True})
    assert (await client.post(web.flow_url("book"), json={"a": [1]}, headers=bearer)).json() == {"a": [1]}
    await put(web, client, "book", response={"body_base64": "AP8=", "content_type": "application/pdf"})
    answer = await client.post(web.flow_url("book"), json={}, headers=bearer)
    assert (answer.content, answer.headers["content-type"]) == (b"\x00\xff", "application/pdf")


async def test_an_invalid_definition_changes_nothing(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    refused = await client.put(f"{web.url}/emulator/flows/create-quote", json={"state": "Stopped", "delay": 1})
    assert (refused.status_code, refused.json()["error"]["message"][:6]) == (400, "delay:")
    assert (await client.post(web.flow_url("create-quote"), json=QUOTE, headers=bearer)).status_code == 200


async def test_the_identitys_token_is_of_version_1(bearer: dict[str, str]) -> None:
    claims = jwt.decode(bearer["Authorization"].removeprefix("Bearer "), options={"verify_signature": False})
    assert claims["ver"] == "1.0"
    assert claims["iss"].endswith(f"/{claims['tid']}/")
