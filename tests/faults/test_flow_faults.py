"""Faults of flows, of the identity endpoint and of the issuer."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from flow_contracts.result import FlowResult
from tests.support.system import WAIT, System, until

QUOTE: JsonValue = {"customer": "Contoso", "amount": 1}
QUEUES = ("flow-requests", "flow-continuations")


def outcome(result: FlowResult) -> tuple[str, str | None]:
    return result.status, result.error.code if result.error else None


async def test_a_call_without_an_answer_is_retried_only_for_an_idempotent_flow(system: System) -> None:
    system.flows["create-quote"] = {"timeout_seconds": 1}
    system.flows["again"] = {
        "idempotent": True,
        "timeout_seconds": 1,
        "url": system.emulator.web.flow_url("create-quote"),
    }
    async with system.worker(), system.client() as client, client.background() as background:
        for kind, code in (
            ("hang", "flow_timeout"),
            ("reset_after_reading", "flow_no_answer"),
            ("close_midway", "flow_no_answer"),
        ):
            before = len(await system.calls("create-quote"))
            await system.put("flows/create-quote", {"faults": [{"kind": kind, "next_calls": 2}]})
            result = await background.request("create-quote", QUOTE, WAIT, claim=system.claim())
            assert (outcome(result), result.attempts) == (("unknown", code), 1), kind
            assert result.error is not None
            assert result.error.retryable is False
            idempotent = await background.request("again", QUOTE, WAIT, claim=system.claim())
            assert (outcome(idempotent), idempotent.attempts) == (("succeeded", None), 2), kind
            assert len(await system.calls("create-quote")) == before + 3


async def test_a_request_for_an_unreachable_flow_fails_and_is_retryable(system: System, unused_tcp_port: int) -> None:
    system.flows["create-quote"] = {"url": f"http://127.0.0.1:{unused_tcp_port}/x"}
    host = f"127.0.0.1:{unused_tcp_port}"
    settings = system.settings(
        plain_http_hosts=[host, system.emulator.web.url.split("/")[2]], retry={"max_calls": 2, "base_seconds": 0.1}
    )
    async with system.worker(settings), system.client() as client, client.background() as background:
        result = await background.request("create-quote", QUOTE, WAIT, claim=system.claim())
    assert (outcome(result), result.attempts) == (("failed", "flow_unreachable"), 2)
    assert result.error is not None
    assert result.error.retryable is True
    assert str(unused_tcp_port) not in result.error.message  # the flow's URL is a secret


async def test_an_html_page_of_a_gateway_ends_the_request_unknown(system: System) -> None:
    await system.put("flows/create-quote", {"faults": [{"kind": "html", "status": 502}]})
    async with system.worker(), system.client() as client, client.background() as background:
        result = await background.request("create-quote", QUOTE, WAIT, claim=system.claim())
    assert outcome(result) == ("unknown", "http_502")
    assert (result.http_status, result.output_encoding) == (502, "text")


async def test_the_worker_does_not_follow_a_redirect_with_the_token(system: System) -> None:
    target = system.emulator.web.flow_url("notify-team")
    fault = {"kind": "respond", "status": 307, "headers": {"Location": target}, "next_calls": 1}
    await system.put("flows/create-quote", {"faults": [fault]})
    async with system.worker(), system.client() as client, client.background() as background:
        result = await background.request("create-quote", QUOTE, WAIT, claim=system.claim())
    assert outcome(result) == ("failed", "http_307")
    assert await system.calls("notify-team") == []


async def test_a_cookie_of_one_call_is_not_sent_with_the_next(system: System) -> None:
    response = {"echo": True, "headers": {"Set-Cookie": "ARRAffinity=secret; Path=/"}}
    await system.put("flows/create-quote", {"response": response, "input_schema": None})
    async with system.worker(), system.client() as client, client.background() as background:
        for _ in range(2):
            result = await background.request("create-quote", QUOTE, WAIT, claim=system.claim())
            assert outcome(result) == ("succeeded", None)
    assert "ARRAffinity" not in str(await system.calls("create-quote"))


@pytest.mark.parametrize(
    ("place", "kind"), [("identity", "respond"), ("identity", "html"), ("issuer", "respond"), ("issuer", "html")]
)
async def test_without_keys_or_token_a_request_waits_and_is_neither_run_nor_denied(
    system: System, place: str, kind: str
) -> None:
    await system.put(place, {"faults": [{"kind": kind, "status": 403}]})
    async with system.worker(), system.client() as client:
        sent = await client.submit("create-quote", QUOTE, claim=system.claim())
        await until(lambda: _continuations(system) > 0)
        assert await system.calls("create-quote") == []
        await system.put(place, {"faults": []})
        if place == "issuer":
            return  # the worker fetches keys again only after a pause; see the tests of the keys
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)
    assert len(await system.calls("create-quote")) == 1


async def test_a_request_that_waited_too_long_fails_and_is_dead_lettered(system: System) -> None:
    await system.put("identity", {"faults": [{"kind": "respond", "status": 403}]})
    settings = system.settings(retry={"max_age_seconds": 1, "base_seconds": 0.2})
    async with system.worker(settings), system.client() as client, client.background() as background:
        result = await background.request("create-quote", QUOTE, WAIT, claim=system.claim())
        assert outcome(result) == ("failed", "identity_unavailable")
        await until(lambda: sum(system.depth("dead_lettered", queue) for queue in QUEUES) == 1)
    assert await system.calls("create-quote") == []


def _continuations(system: System) -> int:
    return len(system.emulator.broker.find("flow-continuations").peek(0, 10, None))
