"""Injected faults: their effect on the caller and on the record of the call."""

import asyncio
import time

import httpx
import pytest

from servicebus_emulator import config
from servicebus_emulator.cloud.entra.definitions import FLOW_AUDIENCE
from servicebus_emulator.cloud.web import Web, running_web


async def break_flow(web: Web, client: httpx.AsyncClient, *faults: dict[str, object]) -> None:
    answer = await client.put(f"{web.url}/emulator/flows/fragile", json={"faults": list(faults)})
    assert answer.status_code == 200, answer.text


async def last_call(web: Web, client: httpx.AsyncClient) -> dict[str, object]:
    answer = await client.get(f"{web.url}/emulator/flows/fragile/calls")
    call: dict[str, object] = answer.json()["calls"][-1]
    return call


async def start(web: Web, client: httpx.AsyncClient, bearer: dict[str, str], timeout: float = 10) -> httpx.Response:
    return await client.post(web.flow_url("fragile"), json={"n": 1}, headers=bearer, timeout=timeout)


async def test_faults_apply_in_order_each_to_its_number_of_calls(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await break_flow(
        web,
        client,
        {"kind": "throttle", "retry_after": "7", "next_calls": 2},
        {"kind": "html", "next_calls": 1},
    )
    answers = [await start(web, client, bearer) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [429, 429, 502, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert "x-ms-workflow-run-id" not in answers[0].headers
    assert answers[2].headers["content-type"] == "text/html"
    assert answers[2].text.startswith("<html>")


async def test_a_fault_answers_with_any_status_body_and_content_type(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    fault = {"status": 401, "body": '{"cut', "content_type": "application/json", "headers": {"x-why": "test"}}
    await break_flow(web, client, {"kind": "respond", "starts_run": False} | fault)
    answer = await start(web, client, bearer)
    assert (answer.status_code, answer.text, answer.headers["x-why"]) == (401, '{"cut', "test")
    assert answer.headers["content-type"] == "application/json"
    assert "x-ms-workflow-run-id" not in answer.headers


async def test_a_delay_postpones_the_flows_own_answer(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await break_flow(web, client, {"kind": "delay", "delay_seconds": 0.3, "next_calls": 1})
    began = time.monotonic()
    answer = await start(web, client, bearer)
    assert answer.status_code == 200
    assert answer.headers["x-ms-workflow-run-id"]
    assert time.monotonic() - began >= 0.29


async def test_a_hanging_flow_never_answers_although_its_run_began(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await break_flow(web, client, {"kind": "hang"})
    with pytest.raises(httpx.ReadTimeout):
        await start(web, client, bearer, timeout=0.5)
    call = await last_call(web, client)
    assert call["run_id"]
    assert call["status"] is None


async def test_a_reset_before_reading_starts_no_run_and_one_after_reading_does(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await break_flow(web, client, {"kind": "reset_before_reading"})
    with pytest.raises(httpx.TransportError):
        await start(web, client, bearer)
    before = await last_call(web, client)
    assert (before["run_id"], before["body"], before["status"]) == (None, None, None)
    await break_flow(web, client, {"kind": "reset_after_reading"})
    with pytest.raises(httpx.TransportError):
        await start(web, client, bearer)
    after = await last_call(web, client)
    assert after["run_id"]
    assert (after["body"], after["status"]) == ({"n": 1}, None)


async def test_a_connection_closed_midway_leaves_half_a_body(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await break_flow(web, client, {"kind": "close_midway"})
    async with client.stream("POST", web.flow_url("fragile"), json={}, headers=bearer) as answer:
        assert answer.status_code == 200
        assert int(answer.headers["content-length"]) > 1000
        with pytest.raises(httpx.TransportError):
            await answer.aread()


async def test_an_oversize_answer_is_json_of_the_requested_size(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    for size in (2, 65_537, 1_000_000):
        await break_flow(web, client, {"kind": "oversize", "size_bytes": size})
        answer = await start(web, client, bearer)
        assert len(answer.content) == size
        assert answer.json() == "x" * (size - 2)


async def test_faults_last_until_they_are_removed_and_survive_other_changes(
    web: Web, client: httpx.AsyncClient, bearer: dict[str, str]
) -> None:
    await break_flow(web, client, {"kind": "respond", "status": 503})
    await client.put(f"{web.url}/emulator/flows/fragile", json={"response": {"status": 201}})
    assert (await start(web, client, bearer)).status_code == 503
    await break_flow(web, client)
    assert (await start(web, client, bearer)).status_code == 201


async def test_the_server_stops_while_a_call_hangs(client: httpx.AsyncClient) -> None:
    async with running_web(config.load().http) as web:
        token = web.tokens.for_managed_identity(FLOW_AUDIENCE, 60)
        await break_flow(web, client, {"kind": "hang"})
        hanging = asyncio.create_task(start(web, client, {"Authorization": f"Bearer {token}"}))
        async with asyncio.timeout(60):
            while not (await client.get(f"{web.url}/emulator/flows/fragile/calls")).json()["calls"]:
                pass  # the awaited answer already yields to the event loop
        began = time.monotonic()
    assert time.monotonic() - began < 5
    with pytest.raises(httpx.TransportError):
        await hanging
