"""Every answer of the platform and every fault schedule; the call records show whether the flow ran to its end."""

import asyncio
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import get_args

import httpx
import pytest

from servicebus_emulator.cloud.flow_errors import PlatformAnswerName
from servicebus_emulator.cloud.web import Web

Record = dict[str, object]

ROWS = [
    ("TriggerInputSchemaMismatch", 400, None, "did not match its schema definition", False),
    ("WorkflowTriggerIsNotEnabled", 400, None, "'fragile' trigger 'manual' with state 'Suspended'", False),
    ("DirectApiAuthorizationRequired", 401, None, "The OAuth authorization scheme is required", False),
    ("DirectApiInvalidAuthorizationScheme", 401, None, "valid authorization header with 'Bearer' scheme", False),
    ("DirectApiSasDisabled", 401, "DirectApiInvalidAuthorizationScheme", "SAS authentication scheme while", False),
    ("DirectApiRequestHasMoreThanOneAuthorization", 401, None, "Only one scheme should be used", False),
    ("DirectApiInvalidAuthorizationSignature", 401, None, "signature is not valid", False),
    ("OAuthAccessPolicyNotFound", 401, None, "Shared Access scheme", False),
    ("MisMatchingOAuthClaims", 403, None, "open authentication access control policy", False),
    ("MisMatchingOAuthClaims401", 401, "MisMatchingOAuthClaims", "open authentication access control", False),
    ("AuthorizationFailed", 403, None, "not in the allowed caller IP address ranges", False),
    ("WorkflowNotFound", 404, None, "'fragile' could not be found", False),
    ("WorkflowRunNotFound", 404, None, "could not be found", False),
    ("MethodNotAllowed", 405, None, "POST requests only", False),
    ("TooManyRequests", 429, None, "rate limit was exceeded", False),
    ("RequestTimeout", 408, None, "timed out", True),
    ("NoResponse", 502, None, "did not receive a response from an upstream server", True),
    ("GatewayTimeout", 504, None, "GATEWAY TIMEOUT", True),
]


async def put(web: Web, client: httpx.AsyncClient, **definition: object) -> None:
    answer = await client.put(f"{web.url}/emulator/flows/fragile", json=definition)
    assert answer.status_code == 200, answer.text


async def calls(web: Web, client: httpx.AsyncClient) -> list[Record]:
    records: list[Record] = (await client.get(f"{web.url}/emulator/flows/fragile/calls")).json()["calls"]
    return records


async def start(web: Web, client: httpx.AsyncClient, bearer: dict[str, str], timeout: float = 10) -> httpx.Response:
    return await client.post(web.flow_url("fragile"), json={"n": 1}, headers=bearer, timeout=timeout)


@pytest.mark.parametrize(("name", "status", "code", "message", "run_started"), ROWS, ids=[row[0] for row in ROWS])
async def test_a_platform_answer_has_its_reported_form_and_names_a_run_only_if_one_began(
    web: Web,
    client: httpx.AsyncClient,
    bearer: dict[str, str],
    name: str,
    status: int,
    code: str | None,
    message: str,
    run_started: bool,
) -> None:
    await put(web, client, faults=[{"kind": name, "next_calls": 1}])
    answer = await start(web, client, bearer)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code or name)
    assert message in error["message"]
    assert "{" not in error["message"]
    assert ("x-ms-workflow-run-id" in answer.headers) is run_started
    assert answer.headers["x-ms-request-id"]
    assert "retry-after" not in answer.headers
    (call,) = await calls(web, client)
    assert (call["status"], call["code"], call["effect"], call["body"]) == (status, code or name, run_started, {"n": 1})
    assert (await start(web, client, bearer)).status_code == 200


def test_these_rows_cover_every_platform_answer() -> None:
    assert {row[0] for row in ROWS} == set(get_args(PlatformAnswerName))


async def test_a_throttled_answer_has_retry_after_in_seconds_or_as_a_date_or_not_at_all(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    forms: list[Record] = [
        {"retry_after": "7"},
        {"retry_after_seconds": 90},
        {"retry_after": None},
        {"retry_after": "soon"},
    ]
    await put(web, client, faults=[{"kind": "throttle", "next_calls": 1} | form for form in forms])
    answers = [await start(web, client, bearer) for _ in forms]
    assert [answer.status_code for answer in answers] == [429] * 4
    seconds, date, none, nonsense = [answer.headers.get("retry-after") for answer in answers]
    assert (seconds, none, nonsense) == ("7", None, "soon")
    assert date is not None
    assert date.endswith(" GMT")
    assert 60 < (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds() <= 91


async def test_a_schedule_applies_call_by_call(web: Web, client: httpx.AsyncClient, bearer: dict[str, str]) -> None:
    kinds = [("pass", 1), ("throttle", 2), ("pass", 2), ("html", 1), ("hang", 1)]
    await put(web, client, faults=[{"kind": kind, "next_calls": count} for kind, count in kinds])
    statuses = [(await start(web, client, bearer)).status_code for _ in range(6)]
    assert statuses == [200, 429, 429, 200, 200, 502]
    with pytest.raises(httpx.ReadTimeout):
        await start(web, client, bearer, timeout=0.3)
    assert (await start(web, client, bearer)).status_code == 200


async def test_a_share_of_the_calls_meets_the_fault_and_the_seed_selects_them(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    async def throttled(seed: int) -> list[bool]:
        await put(web, client, faults=[{"kind": "throttle", "share": 0.3, "seed": seed, "next_calls": 30}])
        return [(await start(web, client, bearer)).status_code == 429 for _ in range(30)]

    first, again, other = await throttled(1), await throttled(1), await throttled(2)
    assert first == again != other
    assert 2 <= sum(first) <= 18
    assert (await start(web, client, bearer)).status_code == 200, "a call that passes counts towards next_calls too"


async def test_invalid_json_has_the_content_type_of_json(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await put(web, client, faults=[{"kind": "invalid_json"}])
    answer = await start(web, client, bearer)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert answer.headers["x-ms-workflow-run-id"]
    with pytest.raises(ValueError, match="Expecting value"):
        answer.json()


async def test_effects_are_counted_also_when_the_caller_gets_no_answer(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    effects = {
        "pass": True,
        "throttle": False,
        "html": True,
        "reset_before_reading": False,
        "reset_after_reading": True,
        "close_midway": True,
        "NoResponse": True,
        "WorkflowNotFound": False,
    }
    await put(web, client, faults=[{"kind": kind, "next_calls": 1} for kind in effects])
    for _ in effects:
        try:
            await start(web, client, bearer)
        except httpx.TransportError:
            continue
    records = await calls(web, client)
    assert dict(zip(effects, (call["effect"] for call in records), strict=True)) == effects
    assert [call["finished"] for call in records] == [call["effect"] for call in records]


async def test_a_run_continues_to_its_end_after_its_caller_disconnects(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await put(web, client, delay_seconds=0.5)
    began = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        await start(web, client, bearer, timeout=0.1)
    async with asyncio.timeout(60):
        while not (await calls(web, client))[0]["finished"]:
            pass  # the awaited answer already yields to the event loop
    assert time.monotonic() - began >= 0.49
    (call,) = await calls(web, client)
    assert (call["effect"], call["status"]) == (True, None), "the caller had disconnected before the answer"


async def test_a_delay_adds_to_the_duration_of_the_run(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await put(web, client, delay_seconds=0.2, faults=[{"kind": "delay", "delay_seconds": 0.2}])
    began = time.monotonic()
    assert (await start(web, client, bearer)).status_code == 200
    assert time.monotonic() - began >= 0.39
