from __future__ import annotations

import asyncio

import pytest

from flow_contracts.client import NotOutstanding, ResultTimeout, ServiceBusFailure
from flow_contracts.client.mailbox import Mailbox
from flow_contracts.result import FlowResult, Status


def result(correlation_id: str, message_id: str = "m", replay_of: str | None = None) -> FlowResult:
    return FlowResult(
        status=Status.SUCCEEDED, correlation_id=correlation_id, request_message_id=message_id, replay_of=replay_of
    )


async def test_each_waiter_gets_the_result_of_its_correlation_id() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    mailbox.expect("b", "m")
    waiting = [asyncio.create_task(mailbox.get(key, 5)) for key in ("a", "b")]
    await asyncio.sleep(0)
    assert mailbox.put(result("b"))
    assert mailbox.put(result("a"))
    assert [one.correlation_id for one in await asyncio.gather(*waiting)] == ["a", "b"]


async def test_a_result_that_arrives_before_the_wait_is_kept() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    mailbox.put(result("a"))
    assert (await mailbox.get("a", 0)).correlation_id == "a"


async def test_a_result_without_an_outstanding_request_is_refused() -> None:
    mailbox = Mailbox(10)
    assert not mailbox.put(result("a"))
    mailbox.expect("a", "m")
    mailbox.forget("a")
    assert not mailbox.put(result("a"))


async def test_a_redelivered_result_is_recognised_before_and_after_it_was_returned() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    assert mailbox.put(result("a"))
    assert mailbox.put(result("a"))
    await mailbox.get("a", 0)
    assert mailbox.put(result("a"))


async def test_a_result_is_returned_once() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    mailbox.put(result("a"))
    await mailbox.get("a", 0)
    with pytest.raises(NotOutstanding, match=r"'a'.*returned before"):
        await mailbox.get("a", 0)


async def test_a_timeout_names_correlation_id_and_seconds_and_a_later_wait_gets_the_result() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    with pytest.raises(ResultTimeout, match=r"'a' within 0\.01 s") as late:
        await mailbox.get("a", 0.01)
    assert (late.value.correlation_id, late.value.seconds) == ("a", 0.01)
    mailbox.put(result("a"))
    assert await mailbox.get("a", 0)


async def test_the_oldest_of_too_many_unclaimed_results_is_dropped() -> None:
    mailbox = Mailbox(2)
    for key in ("a", "b", "c"):
        mailbox.expect(key, "m")
        mailbox.put(result(key))
    with pytest.raises(NotOutstanding, match="more than 2"):
        await mailbox.get("a", 0)
    assert await mailbox.get("b", 0)
    assert await mailbox.get("c", 0)


async def test_one_correlation_id_cannot_be_outstanding_twice() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    with pytest.raises(ValueError, match="outstanding already"):
        mailbox.expect("a", "m")


async def test_closing_ends_every_wait_with_an_error() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    waiting = asyncio.create_task(mailbox.get("a", 5))
    await asyncio.sleep(0)
    mailbox.close()
    with pytest.raises(ServiceBusFailure, match="closed before a result came for correlation ID 'a'"):
        await waiting


async def test_a_result_of_another_senders_request_is_refused() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    assert not mailbox.put(result("a", "another"))
    assert mailbox.put(result("a"))
    assert (await mailbox.get("a", 1)).request_message_id == "m"
    assert not mailbox.put(result("a", "another"))
    assert mailbox.put(result("a"))  # a redelivery


async def test_a_result_of_the_requests_replay_is_accepted() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    assert mailbox.put(result("a", "replayed", replay_of="m"))
