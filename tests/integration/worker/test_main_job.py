"""A request goes in, its flow runs, its result comes back: real SDK, real AMQP, real HTTP, real azure-identity."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest

from contracts.client import Background
from contracts.message import Message
from contracts.request import CONTRACT
from contracts.result import FlowResult
from tests.support.stage import ROLE, WAIT, Stage, running_stage, short_lock, until
from worker.servicebus import ServiceBus

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
QUOTE = {"customer": "Contoso", "amount": 1250}


def outcome(result: FlowResult) -> tuple[str, str | None]:
    return result.status, result.error.code if result.error else None


async def test_a_request_runs_its_flow_and_its_result_comes_back(stage: Stage) -> None:
    async with stage.worker(), stage.client() as client:
        sent = await client.submit("create-quote", QUOTE, claim=stage.claim(), traceparent=TRACE)
        result = await client.wait(sent, timeout=WAIT)
        assert await client.poll(sent) == result
        assert await client.take(sent) == result
        assert await client.poll(sent) is None
    (call,) = await stage.calls("create-quote")
    assert outcome(result) == ("succeeded", None)
    assert isinstance(result.output, dict)
    assert result.output["customer"] == "Contoso"
    assert (result.http_status, result.attempts, result.output_type) == (200, 1, "application/json")
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


async def test_every_request_ends_as_it_should_and_none_is_left(stage: Stage) -> None:
    async with stage.worker(), stage.client() as client, client.background() as background:
        asked = {
            "nobody": await background.submit("create-quote", QUOTE),
            "no role": await background.submit("create-quote", QUOTE, claim=stage.claim("Other.Role")),
            "forged": await background.submit("create-quote", QUOTE, claim=stage.claim(forged=True)),
            "expired": await background.submit("create-quote", QUOTE, claim=stage.claim(lifetime_seconds=-400)),
            "audience": await background.submit("create-quote", QUOTE, claim=stage.claim(audience="api://other")),
            "unsigned": await background.submit("create-quote", QUOTE, claim=stage.claim(algorithm="none")),
            "shared key": await background.submit("create-quote", QUOTE, claim=stage.claim(algorithm="HS256")),
            "no flow": await background.submit("delete-everything", claim=stage.claim()),
            "flow's schema": await background.submit("create-quote", {"customer": 5}, claim=stage.claim()),
            "no response": await background.submit("notify-team", claim=stage.claim()),
            "broken": await background.submit("broken-approval", claim=stage.claim()),
        }
        ended = {name: outcome(await background.wait(sent, WAIT)) for name, sent in asked.items()}
    assert ended == {
        "nobody": ("refused", "claim_missing"),
        "no role": ("refused", "role_missing"),
        "forged": ("refused", "claim_invalid"),
        "expired": ("refused", "claim_expired"),
        "audience": ("refused", "claim_audience"),
        "unsigned": ("refused", "claim_invalid"),
        "shared key": ("refused", "claim_invalid"),
        "no flow": ("refused", "unknown_flow"),
        "flow's schema": ("failed", "TriggerInputSchemaMismatch"),
        "no response": ("succeeded", None),
        "broken": ("failed", "NoResponse"),
    }
    assert stage.emulator.broker.counts()["flow-requests"] == dict.fromkeys(
        ("active", "deferred", "scheduled", "dead_lettered"), 0
    )


async def test_what_is_malformed_is_refused_and_what_cannot_be_answered_is_dead_lettered(stage: Stage) -> None:
    settings = stage.settings()
    async with stage.worker(settings), ServiceBus(settings.servicebus) as bus, stage.client() as client:
        contract = {"contract": CONTRACT}
        await bus.send("flow-requests", Message(body=b"{", message_id="a", application_properties=contract))
        await bus.send("flow-requests", Message(body=b"{}", message_id="b"))
        await bus.send(
            "flow-requests",
            Message(body=b'{"flow": "x"}', message_id="c", reply_to="elsewhere", application_properties=contract),
        )
        await bus.send(
            "flow-requests",
            Message(body=b"{}", message_id="d", correlation_id="x" * 129, application_properties=contract),
        )
        ended = [outcome(await client.wait(sent, WAIT)) for sent in ("a", "b", "c")]
        await until(lambda: stage.emulator.broker.counts()["flow-requests"]["dead_lettered"] == 1)
        (dead,) = await bus.dead_letters("flow-requests", limit=5)
    assert ended == [
        ("refused", "malformed_request"),
        ("refused", "unsupported_contract"),
        ("refused", "reply_queue_not_allowed"),
    ]
    assert (dead.message_id, dead.reason) == ("d", "correlation_id_too_long")
    assert "128" in dead.description


async def test_neither_claim_nor_token_is_ever_logged_or_answered(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    claims = [stage.claim(), stage.claim("Other.Role"), stage.claim(forged=True)]
    settings = stage.settings()
    async with stage.worker(settings), stage.client() as client, client.background() as background:
        results = [await background.request("create-quote", QUOTE, WAIT, claim=claim) for claim in claims]
        async with ServiceBus(settings.servicebus) as bus:
            body = f'{{"claim": "{claims[0]}", "flow": '.encode()
            await bus.send("flow-requests", Message(body=body, message_id="m", correlation_id="x" * 129))
            await until(lambda: stage.emulator.broker.counts()["flow-requests"]["dead_lettered"] == 1)
            (dead,) = await bus.dead_letters("flow-requests", limit=5)
    said = caplog.text + "".join(result.model_dump_json() for result in results) + repr(dead)
    events = {getattr(record, "event", None) for record in caplog.records}
    assert {"request.done", "request.dead_lettered"} <= events  # something was logged that could have leaked
    for claim in claims:
        assert claim not in said
        assert claim.split(".")[2] not in said
    assert "eyJ" not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("worker"))


@pytest.mark.parametrize(
    ("answer", "output", "encoding"),
    [
        ({"body": "plain text", "content_type": "text/plain; charset=utf-8"}, "plain text", "text"),
        ({"body_base64": "AAECAw==", "content_type": "application/octet-stream"}, "AAECAw==", "base64"),
        ({"body": [1, None, {"ä": "€"}]}, [1, None, {"ä": "€"}], "json"),
        ({"body": "<p>no</p>", "content_type": "text/html", "status": 418}, "<p>no</p>", "text"),
    ],
)
async def test_any_content_type_comes_back_as_what_it_is(
    stage: Stage, answer: dict[str, object], output: object, encoding: str
) -> None:
    await stage.put("flows/create-quote", {"response": answer})
    async with stage.worker(), stage.client() as client, client.background() as background:
        result = await background.request("create-quote", QUOTE, WAIT, claim=stage.claim())
    assert (result.output, result.output_encoding) == (output, encoding)


async def test_a_result_larger_than_the_queue_takes_comes_without_its_output(stage: Stage) -> None:
    await stage.put("flows/create-quote", {"response": {"body": "x" * 400_000}})
    async with stage.worker(), stage.client() as client, client.background() as background:
        result = await background.request("create-quote", QUOTE, WAIT, claim=stage.claim())
    assert outcome(result) == ("succeeded", "output_too_large")
    assert (result.output, result.http_status) == (None, 200)


async def test_an_answer_larger_than_the_worker_reads_comes_without_its_output(stage: Stage) -> None:
    await stage.put("flows/create-quote", {"faults": [{"kind": "oversize", "size_bytes": 200_000}]})
    settings = stage.settings(http={"max_response_bytes": 100_000})
    async with stage.worker(settings), stage.client() as client, client.background() as background:
        result = await background.request("create-quote", QUOTE, WAIT, claim=stage.claim())
    assert outcome(result) == ("succeeded", "output_too_large")


async def test_a_flow_slower_than_the_lock_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_stage(monkeypatch, short_lock(5)) as stage:
        await stage.put("flows/slow-report", {"delay_seconds": 8})
        async with stage.worker(), stage.client() as client, client.background() as background:
            result = await background.request("slow-report", {}, WAIT, claim=stage.claim())
            assert outcome(result) == ("succeeded", None)
            await until(lambda: stage.emulator.broker.counts()["flow-requests"]["active"] == 0)
        assert len(await stage.calls("slow-report")) == 1


async def test_a_request_sent_twice_is_run_once(stage: Stage) -> None:
    async with stage.worker(), stage.client() as client:
        for _ in range(2):
            await client.submit("create-quote", QUOTE, claim=stage.claim(), message_id="same", correlation_id="same")
        await client.wait("same", WAIT)
        await until(lambda: stage.emulator.broker.counts()["flow-requests"]["active"] == 0)
    assert len(await stage.calls("create-quote")) == 1


async def test_a_burst_is_answered_whole(stage: Stage) -> None:
    claim = stage.claim()

    async def one(background: Background, number: int) -> bool:
        result = await background.request("create-quote", {"customer": "x", "amount": number + 1}, WAIT, claim=claim)
        return isinstance(result.output, dict) and result.output["amount"] == number + 1

    async with stage.worker(), stage.client() as client, client.background() as background:
        assert all(await asyncio.gather(*(one(background, number) for number in range(100))))


async def test_two_request_queues_and_reply_queues_are_served(stage: Stage) -> None:
    settings = stage.settings(
        request_queues=[{"name": "flow-requests", "lanes": 1}, {"name": "flow-continuations", "lanes": 1}]
    )
    async with stage.worker(settings), ServiceBus(settings.servicebus) as bus, stage.client() as client:
        await client.submit("create-quote", QUOTE, claim=stage.claim(ROLE), correlation_id="one")
        body = b'{"flow": "nothing"}'
        properties = {"contract": CONTRACT}
        await bus.send("flow-continuations", Message(body=body, message_id="two", application_properties=properties))
        assert outcome(await client.wait("one", WAIT)) == ("succeeded", None)
        assert outcome(await client.wait("two", WAIT)) == ("refused", "claim_missing")
