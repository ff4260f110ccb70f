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


async def test_a_result_is_handed_to_whoever_waits_for_its_correlation_id() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    mailbox.expect("b", "m")
    waiting = [asyncio.create_task(mailbox.get(key, 5)) for key in ("a", "b")]
    await asyncio.sleep(0)
    assert mailbox.put(result("b"))
    assert mailbox.put(result("a"))
    assert [one.correlation_id for one in await asyncio.gather(*waiting)] == ["a", "b"]


async def test_a_result_that_came_first_is_kept_for_who_asks_later() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    mailbox.put(result("a"))
    assert (await mailbox.get("a", 0)).correlation_id == "a"


async def test_a_result_nobody_asked_for_is_not_taken() -> None:
    mailbox = Mailbox(10)
    assert not mailbox.put(result("a"))
    mailbox.expect("a", "m")
    mailbox.forget("a")
    assert not mailbox.put(result("a"))


async def test_a_redelivered_result_is_recognised_before_and_after_it_was_handed_over() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    assert mailbox.put(result("a"))
    assert mailbox.put(result("a"))
    await mailbox.get("a", 0)
    assert mailbox.put(result("a"))


async def test_a_result_is_handed_over_once() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    mailbox.put(result("a"))
    await mailbox.get("a", 0)
    with pytest.raises(NotOutstanding, match=r"'a'.*returned before"):
        await mailbox.get("a", 0)


async def test_waiting_in_vain_names_the_correlation_id_and_the_seconds_and_may_be_done_again() -> None:
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


async def test_closing_tells_those_who_still_wait() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    waiting = asyncio.create_task(mailbox.get("a", 5))
    await asyncio.sleep(0)
    mailbox.close()
    with pytest.raises(ServiceBusFailure, match="closed before a result came for correlation ID 'a'"):
        await waiting


async def test_a_result_of_someone_elses_request_is_not_handed_over() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    assert not mailbox.put(result("a", "another"))
    assert mailbox.put(result("a"))
    assert (await mailbox.get("a", 1)).request_message_id == "m"
    assert not mailbox.put(result("a", "another"))
    assert mailbox.put(result("a"))  # a redelivery


async def test_a_result_of_the_requests_replay_is_handed_over() -> None:
    mailbox = Mailbox(10)
    mailbox.expect("a", "m")
    assert mailbox.put(result("a", "replayed", replay_of="m"))
