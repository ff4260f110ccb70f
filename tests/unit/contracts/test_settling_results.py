"""A settling result stands instead of the `unknown` result that it settles, in every order and for every reader."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from pydantic import create_model

from flow_contracts.client import NotOutstanding, ResultTimeout, ServiceBusFailure, new_reply_key
from flow_contracts.client.mailbox import Mailbox
from flow_contracts.client.result_check import ResultCheck
from flow_contracts.client.result_search import Found, ResultSearch
from flow_contracts.client.returned_results import ReturnedResults
from flow_contracts.client.sent_requests import SentRequest
from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.request import FlowRequest
from flow_contracts.result import SETTLED_BY_FLOW_RUN, FlowError, FlowResult, Status, reply_message_id
from flow_contracts.servicebus import SessionReceiver

KEY = new_reply_key()
HOUR = timedelta(hours=1)


def result(status: Status, *, settled: bool = False, replay: str | None = None) -> FlowResult:
    error = None if status is Status.SUCCEEDED else FlowError(code="flow_no_answer", message="")
    return FlowResult(
        status=status,
        error=error,
        correlation_id="c",
        request_message_id=replay or "m",
        replay_of="m" if replay else None,
        settled_by=SETTLED_BY_FLOW_RUN if settled else None,
    )


UNKNOWN = result(Status.UNKNOWN)
SETTLED = result(Status.SUCCEEDED, settled=True)
REPLAY_UNKNOWN = result(Status.UNKNOWN, replay="r")
REPLAY_SETTLED = result(Status.FAILED, settled=True, replay="r")


class Session:
    """A session that holds these messages."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.held = [
            ReceivedMessage(
                body=each.body,
                message_id=each.message_id,
                correlation_id=each.correlation_id,
                application_properties=each.application_properties,
                sequence_number=number,
                enqueued_at=datetime(2026, 11, 30, tzinfo=UTC),
            )
            for number, each in enumerate(messages, 1)
        ]

    async def messages(self) -> AsyncIterator[ReceivedMessage]:
        for each in self.held:
            yield each


async def find(*results: FlowResult, key: Any = KEY, accept_unsigned: bool = False) -> Found | None:
    session = Session([each.to_message("c", HOUR, reply_key=key) for each in results])
    check = ResultCheck(accept_unsigned=accept_unsigned)
    search = ResultSearch("c", SentRequest("m", KEY), check, lambda _: False)
    return await search.find(cast(SessionReceiver, session))


def test_a_settling_result_has_a_message_id_of_its_own() -> None:
    ids = {each.to_message("c", HOUR, reply_key=KEY).message_id for each in (UNKNOWN, SETTLED)}
    assert len(ids) == 2
    assert SETTLED.to_message("c", HOUR).message_id == reply_message_id("m", "c", "c", is_settling=True)
    assert reply_message_id("m", "c", "c", "settled") != reply_message_id("m", "c", "c", is_settling=True)


def test_a_reader_of_an_earlier_version_reads_a_settling_result() -> None:
    message = SETTLED.to_message("c", HOUR)
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in FlowResult.model_fields.items()
        if name not in ("settled_by", "run_url")
    }
    earlier = create_model("Earlier", __config__=FlowResult.model_config, **fields)
    read = earlier.model_validate_json(message.body, strict=True)
    assert read.model_dump() == SETTLED.model_dump(exclude={"settled_by", "run_url"})


def test_a_source_of_a_later_version_is_read() -> None:
    message = SETTLED.to_message("c", HOUR)
    later = message.body.replace(b'"settled_by":"flow_run"', b'"settled_by":"another_source"')
    assert FlowResult.from_message(Message(body=later, application_properties={"contract": "flow-result/1"})).settled_by


@pytest.mark.parametrize("order", list(itertools.permutations([UNKNOWN, SETTLED])))
async def test_the_settling_result_stands_in_each_order(order: tuple[FlowResult, ...]) -> None:
    found = await find(*order)
    assert found is not None
    assert FlowResult.from_message(found.message) == SETTLED
    assert found.others == 0
    assert found.settled is not None
    assert FlowResult.from_message(found.settled) == UNKNOWN


@pytest.mark.parametrize("order", list(itertools.permutations([UNKNOWN, SETTLED, REPLAY_UNKNOWN])))
async def test_a_replay_stands_before_what_settles_the_first_call(order: tuple[FlowResult, ...]) -> None:
    found = await find(*order)
    assert found is not None
    assert FlowResult.from_message(found.message) == REPLAY_UNKNOWN
    assert found.settled is None


@pytest.mark.parametrize("order", list(itertools.permutations([UNKNOWN, REPLAY_UNKNOWN, REPLAY_SETTLED])))
async def test_what_settles_the_replay_stands(order: tuple[FlowResult, ...]) -> None:
    found = await find(*order)
    assert found is not None
    assert FlowResult.from_message(found.message) == REPLAY_SETTLED


async def test_nothing_settles_a_known_end_and_nothing_unsigned_settles_a_signed_one() -> None:
    known = result(Status.FAILED)
    found = await find(known, SETTLED)
    assert found is not None
    assert FlowResult.from_message(found.message) == known
    unsigned = Session([UNKNOWN.to_message("c", HOUR, reply_key=KEY), SETTLED.to_message("c", HOUR)])
    search = ResultSearch("c", SentRequest("m", KEY), ResultCheck(accept_unsigned=True), lambda _: False)
    found = await search.find(cast(SessionReceiver, unsigned))
    assert found is not None
    assert FlowResult.from_message(found.message) == UNKNOWN


def test_a_request_that_is_sent_again_gets_its_settling_result_again() -> None:
    returned = ReturnedResults()
    request = FlowRequest(flow="f", message_id="m", correlation_id="c", reply_to_session_id="c", reply_key=KEY)
    ids = [each.to_message("c", HOUR, reply_key=KEY).message_id for each in (UNKNOWN, SETTLED)]
    for each in ids:
        returned.add(each)
    returned.expect_again(request)
    assert not any(each in returned for each in ids)


# --- the mailbox of a background client ------------------------------------------------------------------------------


def mailbox() -> Mailbox:
    made = Mailbox(10)
    made.expect(FlowRequest(flow="f", message_id="m", correlation_id="c", reply_to_session_id="s"))
    return made


def put(box: Mailbox, one: FlowResult) -> bool:
    return box.put(one, one.to_message("s", HOUR).message_id)


async def test_a_waiter_gets_unknown_at_once_and_the_settling_result_by_another_wait() -> None:
    box = mailbox()
    put(box, UNKNOWN)
    assert await box.get("c", 0) == UNKNOWN
    assert put(box, SETTLED)
    assert put(box, SETTLED), "a copy changes nothing"
    assert await box.get("c", 0) == SETTLED
    with pytest.raises(NotOutstanding):
        await box.get("c", 0)


async def test_the_settling_result_wins_over_an_unclaimed_unknown_one() -> None:
    box = mailbox()
    put(box, UNKNOWN)
    put(box, SETTLED)
    assert await box.get("c", 0) == SETTLED


@pytest.mark.parametrize("has_unknown", [True, False], ids=["unknown first", "unknown returned before"])
async def test_a_wait_for_the_settling_result_ends_with_it(has_unknown: bool) -> None:
    box = mailbox()
    put(box, UNKNOWN)
    if not has_unknown:
        await box.get("c", 0)
    waiting = asyncio.create_task(box.receive_settled("c", 5))
    await asyncio.sleep(0)
    put(box, SETTLED)
    assert (await waiting)[0] == SETTLED


async def test_a_wait_for_the_settling_result_returns_any_known_end_at_once() -> None:
    box = mailbox()
    put(box, result(Status.FAILED))
    assert (await box.receive_settled("c", 0))[0].status is Status.FAILED


async def test_a_wait_for_the_settling_result_returns_the_unknown_one_at_its_end() -> None:
    box = mailbox()
    put(box, UNKNOWN)
    assert (await box.receive_settled("c", 0.01))[0] == UNKNOWN
    with pytest.raises(ResultTimeout):
        await box.receive_settled("c", 0.01)
    with pytest.raises(NotOutstanding):
        await box.receive_settled("another", 0.01)


async def test_closing_ends_a_wait_for_the_settling_result() -> None:
    box = mailbox()
    put(box, UNKNOWN)
    waiting = asyncio.create_task(box.receive_settled("c", 5))
    await asyncio.sleep(0)
    box.close()
    with pytest.raises(ServiceBusFailure, match="closed"):
        await waiting
