from __future__ import annotations

import asyncio

import pytest

from contracts.client.errors import NotOutstanding, ResultTimeout, ServiceBusTrouble
from contracts.client.mailbox import Mailbox
from contracts.result import FlowResult, Status


def result(correlation_id: str) -> FlowResult:
    return FlowResult(status=Status.SUCCEEDED, correlation_id=correlation_id, request_message_id="m")


async def test_a_result_is_handed_to_whoever_waits_for_its_correlation_id() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a")
    mailbox.expect("b")
    waiting = [asyncio.create_task(mailbox.get(key, 5)) for key in ("a", "b")]
    await asyncio.sleep(0)
    assert mailbox.put(result("b"))
    assert mailbox.put(result("a"))
    assert [one.correlation_id for one in await asyncio.gather(*waiting)] == ["a", "b"]


async def test_a_result_that_came_first_is_kept_for_who_asks_later() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a")
    mailbox.put(result("a"))
    assert (await mailbox.get("a", 0)).correlation_id == "a"


async def test_a_result_nobody_asked_for_is_not_taken() -> None:
    mailbox = Mailbox(10)
    assert not mailbox.put(result("a"))
    mailbox.expect("a")
    mailbox.forget("a")
    assert not mailbox.put(result("a"))


async def test_a_redelivered_result_is_recognised_before_and_after_it_was_handed_over() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a")
    assert mailbox.put(result("a"))
    assert mailbox.put(result("a"))
    await mailbox.get("a", 0)
    assert mailbox.put(result("a"))


async def test_a_result_is_handed_over_once() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a")
    mailbox.put(result("a"))
    await mailbox.get("a", 0)
    with pytest.raises(NotOutstanding, match=r"'a'.*handed over before"):
        await mailbox.get("a", 0)


async def test_waiting_in_vain_names_the_correlation_id_and_the_seconds_and_may_be_done_again() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a")
    with pytest.raises(ResultTimeout, match=r"'a' within 0\.01 s") as late:
        await mailbox.get("a", 0.01)
    assert (late.value.correlation_id, late.value.seconds) == ("a", 0.01)
    mailbox.put(result("a"))
    assert await mailbox.get("a", 0)


async def test_the_oldest_of_too_many_unclaimed_results_is_dropped() -> None:
    mailbox = Mailbox(2)
    for key in ("a", "b", "c"):
        mailbox.expect(key)
        mailbox.put(result(key))
    with pytest.raises(NotOutstanding, match="more than 2"):
        await mailbox.get("a", 0)
    assert await mailbox.get("b", 0)
    assert await mailbox.get("c", 0)


async def test_one_correlation_id_cannot_be_outstanding_twice() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a")
    with pytest.raises(ValueError, match="outstanding already"):
        mailbox.expect("a")


async def test_closing_tells_those_who_still_wait() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a")
    waiting = asyncio.create_task(mailbox.get("a", 5))
    await asyncio.sleep(0)
    mailbox.close()
    with pytest.raises(ServiceBusTrouble, match="closed before a result came for correlation ID 'a'"):
        await waiting
