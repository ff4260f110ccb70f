from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from flow_contracts.client import NotOutstanding, ResultTimeout, ServiceBusFailure
from flow_contracts.client.mailbox import Mailbox
from flow_contracts.client.other_results import OtherResults
from flow_contracts.request import FlowRequest
from flow_contracts.result import FlowError, FlowResult, Status, UnsupportedResult


def result(correlation_id: str, message_id: str = "m", replay_of: str | None = None) -> FlowResult:
    return FlowResult(
        status=Status.SUCCEEDED, correlation_id=correlation_id, request_message_id=message_id, replay_of=replay_of
    )


def sent(correlation_id: str, message_id: str = "m") -> FlowRequest:
    return FlowRequest(flow="f", message_id=message_id, correlation_id=correlation_id, reply_to_session_id="s")


def put(mailbox: Mailbox, one: FlowResult) -> bool:
    return mailbox.put(one, one.to_message("s", timedelta(hours=1)).message_id)


async def test_each_waiter_gets_the_result_of_its_correlation_id() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a"))
    mailbox.expect(sent("b"))
    waiting = [asyncio.create_task(mailbox.get(key, 5)) for key in ("a", "b")]
    await asyncio.sleep(0)
    assert put(mailbox, result("b"))
    assert put(mailbox, result("a"))
    assert [one.correlation_id for one in await asyncio.gather(*waiting)] == ["a", "b"]


async def test_a_result_that_arrives_before_the_wait_is_kept() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a"))
    put(mailbox, result("a"))
    assert (await mailbox.get("a", 0)).correlation_id == "a"


async def test_a_result_without_an_outstanding_request_is_refused() -> None:
    mailbox = Mailbox(10)
    assert not put(mailbox, result("a"))
    mailbox.expect(sent("a"))
    mailbox.forget("a")
    assert not put(mailbox, result("a"))


async def test_a_redelivered_result_is_recognised_before_and_after_it_was_returned() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a"))
    assert put(mailbox, result("a"))
    assert put(mailbox, result("a"))
    await mailbox.get("a", 0)
    assert put(mailbox, result("a"))


async def test_a_result_is_returned_once() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a"))
    put(mailbox, result("a"))
    await mailbox.get("a", 0)
    with pytest.raises(NotOutstanding, match=r"'a'.*returned before"):
        await mailbox.get("a", 0)


async def test_a_timeout_names_correlation_id_and_seconds_and_a_later_wait_gets_the_result() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a"))
    with pytest.raises(ResultTimeout, match=r"'a' within 0\.01 s") as late:
        await mailbox.get("a", 0.01)
    assert (late.value.correlation_id, late.value.seconds) == ("a", 0.01)
    put(mailbox, result("a"))
    assert await mailbox.get("a", 0)


async def test_the_oldest_of_too_many_unclaimed_results_is_dropped() -> None:
    mailbox = Mailbox(2)
    for key in ("a", "b", "c"):
        mailbox.expect(sent(key))
        put(mailbox, result(key))
    with pytest.raises(NotOutstanding, match="more than 2"):
        await mailbox.get("a", 0)
    assert await mailbox.get("b", 0)
    assert await mailbox.get("c", 0)


async def test_one_correlation_id_cannot_be_outstanding_twice() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a"))
    with pytest.raises(ValueError, match="outstanding already"):
        mailbox.expect(sent("a"))


async def test_closing_ends_every_wait_with_an_error() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a"))
    waiting = asyncio.create_task(mailbox.get("a", 5))
    await asyncio.sleep(0)
    mailbox.close()
    with pytest.raises(ServiceBusFailure, match="closed before a result came for correlation ID 'a'"):
        await waiting


async def test_a_result_of_another_senders_request_is_refused() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a"))
    assert not put(mailbox, result("a", "another"))
    assert put(mailbox, result("a"))
    assert (await mailbox.get("a", 1)).request_message_id == "m"
    assert not put(mailbox, result("a", "another"))
    assert put(mailbox, result("a"))  # a redelivery


async def test_a_result_of_the_requests_replay_is_accepted() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a"))
    assert put(mailbox, result("a", "replayed", replay_of="m"))


async def test_a_copy_of_an_earlier_result_is_dropped_while_the_correlation_id_is_outstanding_again() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a", "first"))
    assert put(mailbox, result("a", "first"))
    await mailbox.get("a", 0)
    mailbox.expect(sent("a", "second"))
    assert put(mailbox, result("a", "first"))
    assert put(mailbox, result("a", "second"))
    assert (await mailbox.get("a", 0)).request_message_id == "second"


async def test_the_same_request_sent_again_gets_its_result_again() -> None:
    mailbox = Mailbox(10)
    for _ in range(2):
        mailbox.expect(sent("a"))
        assert put(mailbox, result("a"))
        assert (await mailbox.get("a", 0)).request_message_id == "m"


async def test_an_unsupported_result_is_raised_in_the_call_that_waits_for_it() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a"))
    mailbox.fail("a", UnsupportedResult("the result has the contract 'flow-result/2'"))
    mailbox.fail("b", UnsupportedResult("of no request"))
    with pytest.raises(UnsupportedResult, match="flow-result/2"):
        await mailbox.get("a", 0)
    with pytest.raises(NotOutstanding):
        await mailbox.get("a", 0)


async def test_the_result_of_a_replay_wins_over_the_unclaimed_one_before() -> None:
    others = OtherResults()
    mailbox = Mailbox(10, others)
    mailbox.expect(sent("a"))
    assert put(mailbox, result("a"))
    for _ in range(2):  # and its copy
        assert put(mailbox, result("a", "replayed", replay_of="m"))
    assert (await mailbox.get("a", 0)).replay_of == "m"
    assert others.count == 1
    with pytest.raises(NotOutstanding):
        await mailbox.get("a", 0)


async def test_the_result_of_a_later_replay_is_returned_by_another_wait_and_blocks_no_new_request() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a"))
    assert put(mailbox, result("a"))
    assert (await mailbox.get("a", 0)).replay_of is None
    assert put(mailbox, result("a", "replayed", replay_of="m"))
    assert (await mailbox.get("a", 0)).replay_of == "m"
    assert put(mailbox, result("a", "again", replay_of="m"))
    mailbox.expect(sent("a", "new"))
    assert put(mailbox, result("a", "new"))
    assert (await mailbox.get("a", 0)).request_message_id == "new"


async def test_a_refusal_of_a_reused_message_id_does_not_replace_the_result() -> None:
    mailbox = Mailbox(10)
    mailbox.expect(sent("a"))
    assert put(mailbox, result("a"))
    error = FlowError(code="message_id_conflict", message="")
    refusal = result("a").model_copy(update={"status": Status.REFUSED, "error": error})
    assert mailbox.put(refusal, "another ID")
    assert (await mailbox.get("a", 0)).status == Status.SUCCEEDED
