"""Requests from the client to the flow and back: real SDK, real AMQP, real HTTP, real azure-identity."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import timedelta

import pytest
from pydantic import JsonValue

from flow_contracts.client import Background, FlowClient
from flow_contracts.message import Message
from flow_contracts.request import CONTRACT
from flow_contracts.result import FlowResult
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import Settings
from tests.support.system import WAIT, System, dead_letters, running_system, short_lock, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
QUOTE: JsonValue = {"customer": "Contoso", "amount": 1250}


def outcome(result: FlowResult) -> tuple[str, str | None]:
    return result.status, result.error.code if result.error else None


async def test_a_request_runs_its_flow_and_its_result_comes_back(system: System, client: FlowClient) -> None:
    sent = await client.submit("create-quote", QUOTE, claim=system.claim(), traceparent=TRACE)
    result = await client.wait(sent, timeout=WAIT)
    assert await client.poll(sent) == result
    assert await client.take(sent) == result
    assert await client.poll(sent) is None
    call = (await system.calls("create-quote"))[-1]
    assert outcome(result) == ("succeeded", None)
    assert isinstance(result.output, dict)
    assert result.output["customer"] == "Contoso"
    assert (result.http_status, result.attempts, result.output_type) == (200, 1, "application/json; charset=utf-8")
    assert result.run is not None
    assert result.run.run_id == call["run_id"]
    assert call["client_tracking_id"] == sent
    assert call["traceparent"] == TRACE
    assert call["body"] == QUOTE
    accepted, started, finished = result.times.accepted, result.times.started, result.times.finished
    assert accepted is not None
    assert started is not None
    assert finished is not None
    assert accepted - timedelta(seconds=1) <= started <= finished


async def test_each_kind_of_request_ends_with_its_status_and_code(system: System, background: Background) -> None:
    sent = {
        "nobody": await background.submit("create-quote", QUOTE),
        "no role": await background.submit("create-quote", QUOTE, claim=system.claim("Other.Role")),
        "forged": await background.submit("create-quote", QUOTE, claim=system.claim(forged=True)),
        "expired": await background.submit("create-quote", QUOTE, claim=system.claim(lifetime_seconds=-400)),
        "audience": await background.submit("create-quote", QUOTE, claim=system.claim(audience="api://other")),
        "unsigned": await background.submit("create-quote", QUOTE, claim=system.claim(algorithm="none")),
        "shared key": await background.submit("create-quote", QUOTE, claim=system.claim(algorithm="HS256")),
        "no flow": await background.submit("delete-everything", claim=system.claim()),
        "flow's schema": await background.submit("create-quote", {"customer": 5}, claim=system.claim()),
        "no response": await background.submit("notify-team", claim=system.claim()),
        "broken": await background.submit("broken-approval", claim=system.claim()),
    }
    ended = {name: outcome(await background.wait(one, WAIT)) for name, one in sent.items()}
    assert ended == {
        "nobody": ("refused", "claim_missing"),
        "no role": ("refused", "flow_not_allowed"),
        "forged": ("refused", "claim_invalid"),
        "expired": ("refused", "claim_expired"),
        "audience": ("refused", "claim_audience"),
        "unsigned": ("refused", "claim_invalid"),
        "shared key": ("refused", "claim_invalid"),
        "no flow": ("refused", "flow_not_allowed"),
        "flow's schema": ("failed", "TriggerInputSchemaMismatch"),
        "no response": ("succeeded", None),
        "broken": ("unknown", "NoResponse"),
    }
    await until(lambda: system.depth("active") == 0)


async def test_malformed_requests_are_refused_and_unanswerable_ones_dead_lettered(
    system: System, settings: Settings, client: FlowClient
) -> None:
    contract = {"contract": CONTRACT}
    async with open_service_bus(settings.servicebus) as bus:
        for message in (
            Message(body=b"{", message_id="a", application_properties=contract),
            Message(body=b"{}", message_id="b"),
            Message(body=b'{"flow": "x"}', message_id="c", reply_to="elsewhere", application_properties=contract),
            Message(body=b"{}", message_id="d", correlation_id="x" * 129, application_properties=contract),
        ):
            await bus.send("flow-requests", message)
        ended = [outcome(await client.wait(sent, WAIT)) for sent in ("a", "b", "c")]
        await until(lambda: system.depth("dead_lettered") == 1)
        (dead,) = await dead_letters(bus, "flow-requests")
    assert ended == [
        ("refused", "malformed_request"),
        ("refused", "unsupported_contract"),
        ("refused", "reply_queue_not_allowed"),
    ]
    assert (dead.message.message_id, dead.reason) == ("d", "correlation_id_too_long")
    assert "128" in dead.description


async def test_claims_and_tokens_appear_in_no_log_result_or_dead_letter(
    system: System, settings: Settings, background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    claims = [system.claim(), system.claim("Other.Role"), system.claim(forged=True)]
    results = [await background.request("create-quote", QUOTE, WAIT, claim=claim) for claim in claims]
    before = system.depth("dead_lettered")
    async with open_service_bus(settings.servicebus) as bus:
        body = f'{{"claim": "{claims[0]}", "flow": '.encode()
        await bus.send("flow-requests", Message(body=body, message_id="m", correlation_id="x" * 129))
        await until(lambda: system.depth("dead_lettered") == before + 1)
        dead = await dead_letters(bus, "flow-requests")
    events = {getattr(record, "event", None) for record in caplog.records}
    assert {"request.completed", "request.dead_lettered"} <= events  # something was logged that could have leaked
    kept = "".join(one.reason + one.description for one in dead)
    texts = caplog.text + "".join(result.model_dump_json() for result in results) + kept
    for claim in claims:
        assert claim not in texts
        assert claim.split(".")[2] not in texts
    assert "eyJ" not in texts  # no other token either: every JSON web token begins so


@pytest.mark.parametrize(
    ("answer", "output", "encoding"),
    [
        ({"body": "plain text", "content_type": "text/plain; charset=utf-8"}, "plain text", "text"),
        ({"body_base64": "AAECAw==", "content_type": "application/octet-stream"}, "AAECAw==", "base64"),
        ({"body": [1, None, {"ä": "€"}]}, [1, None, {"ä": "€"}], "json"),
        ({"body": "<p>no</p>", "content_type": "text/html", "status": 418}, "<p>no</p>", "text"),
    ],
)
async def test_the_output_encoding_follows_the_content_type_of_the_answer(
    system: System, background: Background, answer: dict[str, object], output: object, encoding: str
) -> None:
    await system.put("flows/typed", {"response": answer})
    result = await background.request("typed", {}, WAIT, claim=system.claim())
    assert (result.output, result.output_encoding) == (output, encoding)


async def test_a_result_that_is_too_large_for_the_queue_is_published_without_its_output(
    system: System, background: Background
) -> None:
    await system.put("flows/typed", {"response": {"body": "x" * 400_000}})
    result = await background.request("typed", {}, WAIT, claim=system.claim())
    assert outcome(result) == ("succeeded", "output_too_large")
    assert (result.output, result.http_status) == (None, 200)


async def test_an_answer_that_is_too_large_for_the_worker_is_published_without_its_output(
    system: System, background: Background
) -> None:
    await system.put("flows/notify-team", {"faults": [{"kind": "oversize", "size_bytes": 1_200_000, "next_calls": 1}]})
    result = await background.request("notify-team", {}, WAIT, claim=system.claim())
    assert outcome(result) == ("succeeded", "output_too_large")


async def test_a_request_that_is_sent_twice_runs_once(system: System, client: FlowClient) -> None:
    before = len(await system.calls("create-quote"))
    for _ in range(2):
        await client.submit("create-quote", QUOTE, claim=system.claim(), message_id="same", correlation_id="same")
    await client.wait("same", WAIT)
    await until(lambda: system.depth("active") == 0)
    assert len(await system.calls("create-quote")) == before + 1


async def test_a_correlation_id_may_contain_any_characters(system: System, client: FlowClient) -> None:
    wild = "ä\r\nX-Injected: 1 €"
    await client.submit("create-quote", QUOTE, claim=system.claim(), correlation_id=wild)
    assert outcome(await client.take(wild, timeout=WAIT) or pytest.fail("no result")) == ("succeeded", None)
    call = (await system.calls("create-quote"))[-1]
    assert re.fullmatch("sha256-[0-9a-f]{40}", call["client_tracking_id"])


async def test_every_request_of_a_burst_is_answered(system: System, background: Background) -> None:
    claim = system.claim()

    async def one(number: int) -> bool:
        result = await background.request("create-quote", {"customer": "x", "amount": number + 1}, WAIT, claim=claim)
        return isinstance(result.output, dict) and result.output["amount"] == number + 1

    assert all(await asyncio.gather(*(one(number) for number in range(100))))


async def test_the_worker_receives_from_every_request_queue(settings: Settings, client: FlowClient) -> None:
    async with open_service_bus(settings.servicebus) as bus:
        message = Message(body=b'{"flow": "nothing"}', message_id="two", application_properties={"contract": CONTRACT})
        await bus.send("more-requests", message)
    assert outcome(await client.wait("two", WAIT)) == ("refused", "claim_missing")


async def test_a_flow_that_takes_longer_than_the_lock_duration_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_system(monkeypatch, short_lock(5)) as system:
        await system.put("flows/slow-report", {"delay_seconds": 8})
        async with system.worker(), system.client() as client, client.background() as background:
            result = await background.request("slow-report", {}, WAIT, claim=system.claim())
            assert outcome(result) == ("succeeded", None)
            await until(lambda: system.depth("active") == 0)
        assert len(await system.calls("slow-report")) == 1
