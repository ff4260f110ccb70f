"""The flow hangs, dies half-way, is not there; the identity endpoint or the issuer is away."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from contracts.result import FlowResult
from tests.support.stage import WAIT, Stage

QUOTE: JsonValue = {"customer": "Contoso", "amount": 1}


def outcome(result: FlowResult) -> tuple[str, str | None]:
    return result.status, result.error.code if result.error else None


async def test_a_call_without_an_answer_is_unknown_and_never_made_twice(stage: Stage) -> None:
    stage.flows["create-quote"] = {"timeout_seconds": 1}
    stage.flows["again"] = {
        "idempotent": True,
        "timeout_seconds": 1,
        "url": stage.emulator.web.flow_url("create-quote"),
    }
    async with stage.worker(), stage.client() as client, client.background() as background:
        for kind, code in (
            ("hang", "flow_timeout"),
            ("reset_after_reading", "flow_no_answer"),
            ("close_midway", "flow_no_answer"),
        ):
            before = len(await stage.calls("create-quote"))
            await stage.put("flows/create-quote", {"faults": [{"kind": kind, "next_calls": 2}]})
            result = await background.request("create-quote", QUOTE, WAIT, claim=stage.claim())
            assert outcome(result) == ("unknown", code), kind
            assert result.error is not None
            assert result.error.retryable is False
            idempotent = await background.request("again", QUOTE, WAIT, claim=stage.claim())
            assert outcome(idempotent) == ("failed", code), kind
            assert idempotent.error is not None
            assert idempotent.error.retryable is True
            assert len(await stage.calls("create-quote")) <= before + 2


async def test_a_flow_that_cannot_be_reached_has_failed_and_may_be_asked_again(
    stage: Stage, unused_tcp_port: int
) -> None:
    stage.flows["create-quote"] = {"url": f"http://127.0.0.1:{unused_tcp_port}/x"}
    host = f"127.0.0.1:{unused_tcp_port}"
    settings = stage.settings(plain_http_hosts=[host, stage.emulator.web.url.split("/")[2]])
    async with stage.worker(settings), stage.client() as client, client.background() as background:
        result = await background.request("create-quote", QUOTE, WAIT, claim=stage.claim())
    assert outcome(result) == ("failed", "flow_unreachable")
    assert result.error is not None
    assert result.error.retryable is True
    assert str(unused_tcp_port) not in result.error.message  # the flow's URL is a secret


async def test_a_bad_gateways_page_is_a_failure_with_its_status(stage: Stage) -> None:
    await stage.put("flows/create-quote", {"faults": [{"kind": "html", "status": 502}]})
    async with stage.worker(), stage.client() as client, client.background() as background:
        result = await background.request("create-quote", QUOTE, WAIT, claim=stage.claim())
    assert outcome(result) == ("failed", "http_502")
    assert (result.http_status, result.output_encoding) == (502, "text")


async def test_a_redirect_is_not_followed_with_the_token(stage: Stage) -> None:
    target = stage.emulator.web.flow_url("notify-team")
    fault = {"kind": "respond", "status": 307, "headers": {"Location": target}, "next_calls": 1}
    await stage.put("flows/create-quote", {"faults": [fault]})
    async with stage.worker(), stage.client() as client, client.background() as background:
        result = await background.request("create-quote", QUOTE, WAIT, claim=stage.claim())
    assert outcome(result) == ("failed", "http_307")
    assert await stage.calls("notify-team") == []


async def test_a_cookie_of_one_call_is_not_sent_with_the_next(stage: Stage) -> None:
    response = {"echo": True, "headers": {"Set-Cookie": "ARRAffinity=secret; Path=/"}}
    await stage.put("flows/create-quote", {"response": response, "input_schema": None})
    async with stage.worker(), stage.client() as client, client.background() as background:
        for _ in range(2):
            result = await background.request("create-quote", QUOTE, WAIT, claim=stage.claim())
            assert outcome(result) == ("succeeded", None)
    assert "ARRAffinity" not in str(await stage.calls("create-quote"))


@pytest.mark.parametrize(
    ("place", "kind"), [("identity", "respond"), ("identity", "html"), ("issuer", "respond"), ("issuer", "html")]
)
async def test_without_proof_or_token_a_request_waits_and_is_neither_run_nor_denied(
    stage: Stage, place: str, kind: str
) -> None:
    await stage.put(place, {"faults": [{"kind": kind, "status": 403}]})
    async with stage.worker(), stage.client() as client:
        sent = await client.submit("create-quote", QUOTE, claim=stage.claim())
        assert await _delivered_again(stage)
        assert await stage.calls("create-quote") == []
        await stage.put(place, {"faults": []})
        if place == "issuer":
            return  # keys are asked for again after a pause of their own; see the keys' tests
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)
    assert len(await stage.calls("create-quote")) == 1


async def _delivered_again(stage: Stage) -> bool:
    """Whether the one request was given back and taken again."""
    import asyncio

    queue = stage.emulator.broker.find("flow-requests")
    for _ in range(1500):
        if any(message.delivery_count > 0 for message in queue.peek(0, 10, None)):
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_request_that_waited_too_long_is_answered_and_kept_for_a_person(stage: Stage) -> None:
    await stage.put("identity", {"faults": [{"kind": "respond", "status": 403}]})
    settings = stage.settings(max_deliveries=3)
    async with stage.worker(settings), stage.client() as client, client.background() as background:
        result = await background.request("create-quote", QUOTE, WAIT, claim=stage.claim())
    assert outcome(result) == ("failed", "identity_unavailable")
    assert stage.depth("dead_lettered") == 1
    assert await stage.calls("create-quote") == []
