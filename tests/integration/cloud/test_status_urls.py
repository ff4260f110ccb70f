"""Asynchronous flows: 202 with a status URL, its authorization, and the time of the outcome."""

import asyncio
import secrets
import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from servicebus_emulator.cloud.web import Web

Record = dict[str, object]


async def put(web: Web, client: httpx.AsyncClient, **definition: object) -> None:
    answer = await client.put(f"{web.url}/emulator/flows/report", json=definition)
    assert answer.status_code == 200, answer.text


async def last_call(web: Web, client: httpx.AsyncClient) -> Record:
    call: Record = (await client.get(f"{web.url}/emulator/flows/report/calls")).json()["calls"][-1]
    return call


async def accepted(web: Web, client: httpx.AsyncClient, bearer: dict[str, str], **more: str) -> httpx.Response:
    answer = await client.post(web.flow_url("report"), json={"n": 7}, headers=bearer | more)
    assert (answer.status_code, answer.content) == (202, b"")
    return answer


def check_refusal(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert "x-ms-workflow-run-id" not in answer.headers


async def test_polls_are_answered_202_until_their_number_is_reached_and_then_with_the_response(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    response = {"status": 422, "template": {"n": "{input.n}", "run": "{run_id}"}}
    await put(web, client, response=response, asynchronous={"done_after_polls": 2, "retry_after": "3"})
    first = await accepted(web, client, bearer)
    assert first.headers["retry-after"] == "3"
    assert (await last_call(web, client))["finished"] is False
    url = first.headers["location"]
    polls = [await client.get(url) for _ in range(4)]
    assert [poll.status_code for poll in polls] == [202, 202, 422, 422]
    assert [poll.headers.get("location") for poll in polls] == [url, url, None, None]
    assert [poll.headers.get("retry-after") for poll in polls] == ["3", "3", None, None]
    run_id = first.headers["x-ms-workflow-run-id"]
    assert {poll.headers["x-ms-workflow-run-id"] for poll in polls} == {run_id}
    assert polls[2].json() == polls[3].json() == {"n": 7, "run": run_id}
    call = await last_call(web, client)
    assert (call["effect"], call["finished"], call["status"]) == (True, True, 202)
    assert (call["polls"], call["polled_with_bearer"]) == (4, False)


async def test_the_outcome_is_available_after_done_after_seconds(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await put(web, client, asynchronous={"done_after_seconds": 0.3})
    began = time.monotonic()
    first = await accepted(web, client, bearer)
    assert "retry-after" not in first.headers
    async with asyncio.timeout(60):
        while (status := (await client.get(first.headers["location"])).status_code) == 202:
            pass  # the awaited answer already yields to the event loop
    assert status == 200
    assert time.monotonic() - began >= 0.29
    assert (await last_call(web, client))["finished"] is True


async def test_a_signed_status_url_accepts_its_signature_alone(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await put(web, client, asynchronous={})
    url = (await accepted(web, client, bearer)).headers["location"]
    query = parse_qs(urlsplit(url).query)
    assert query["sp"] == [f"/runs/{urlsplit(url).path.partition('/runs/')[2]}/read"]
    check_refusal(await client.get(url, headers=bearer), 401, "DirectApiRequestHasMoreThanOneAuthorization")
    assert (await last_call(web, client))["polled_with_bearer"] is True
    unsigned = url.partition("&sp=")[0]
    check_refusal(await client.get(unsigned), 401, "DirectApiAuthorizationRequired")
    check_refusal(await client.get(unsigned, headers=bearer), 401, "OAuthAccessPolicyNotFound")
    bad_signature = f"{unsigned}&sig={secrets.token_urlsafe(32)}"
    check_refusal(await client.get(bad_signature), 401, "DirectApiInvalidAuthorizationSignature")
    assert (await client.get(url)).status_code == 200
    assert query["sig"][0] not in str(await last_call(web, client))


async def test_an_unsigned_status_url_needs_the_triggers_bearer(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await put(web, client, asynchronous={"signed_status_url": False})
    url = (await accepted(web, client, bearer)).headers["location"]
    assert "sig=" not in url
    check_refusal(await client.get(url), 401, "DirectApiAuthorizationRequired")
    stranger = {"Authorization": f"Bearer {web.tokens.for_managed_identity('https://elsewhere.example', 60)}"}
    check_refusal(await client.get(url, headers=stranger), 403, "MisMatchingOAuthClaims")
    assert (await client.get(url, headers=bearer)).status_code == 200
    call = await last_call(web, client)
    assert (call["polls"], call["polled_with_bearer"]) == (3, True)


async def test_a_lost_run_and_an_unknown_run_are_404(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await put(web, client, asynchronous={"lost": True})
    url = (await accepted(web, client, bearer)).headers["location"]
    check_refusal(await client.get(url), 404, "WorkflowRunNotFound")
    assert (await last_call(web, client))["effect"] is True
    await put(web, client, asynchronous={})
    url = (await accepted(web, client, bearer)).headers["location"]
    run_id = urlsplit(url).path.split("/")[-3]
    check_refusal(await client.get(url.replace(f"/runs/{run_id}/", "/runs/0858/")), 404, "WorkflowRunNotFound")
    check_refusal(await client.get(url.replace("?", "0?")), 404, "WorkflowRunNotFound")


async def test_poll_faults_apply_to_polls_and_do_not_count_towards_the_outcome(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    kinds = ["AuthorizationFailed", "NoResponse", "throttle", "reset_after_reading", "pass"]
    faults = [{"kind": kind, "next_calls": 1} for kind in kinds]
    await put(web, client, asynchronous={"done_after_polls": 1}, poll_faults=faults)
    url = (await accepted(web, client, bearer)).headers["location"]
    check_refusal(await client.get(url), 403, "AuthorizationFailed")
    no_response, throttled = await client.get(url), await client.get(url)
    assert (no_response.status_code, throttled.status_code) == (502, 429)
    assert no_response.headers["x-ms-workflow-run-id"]
    with pytest.raises(httpx.TransportError):
        await client.get(url)
    assert [(await client.get(url)).status_code for _ in range(2)] == [202, 200]
    await put(web, client, poll_faults=[{"kind": "html", "next_calls": 2}])
    assert (await client.get(url)).status_code == 502
    await put(web, client, faults=[])
    statuses = [(await client.get(url)).status_code for _ in range(2)]
    assert statuses == [502, 200], "the change of another field neither removes a fault nor resets its count"


async def test_the_status_url_has_the_host_that_the_caller_addressed(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await put(web, client, asynchronous={})
    url = (await accepted(web, client, bearer, Host="emulator.test:8080")).headers["location"]
    assert url.startswith("http://emulator.test:8080/powerautomate/automations/direct/workflows/report/runs/")


async def test_an_asynchronous_flow_without_a_response_is_refused(web: Web, client: httpx.AsyncClient) -> None:
    refused = await client.put(f"{web.url}/emulator/flows/report", json={"response": None, "asynchronous": {}})
    assert refused.status_code == 400
    assert "needs a Response" in refused.json()["error"]["message"]
