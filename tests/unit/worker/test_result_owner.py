"""The owner of a result: a foreign request with the same IDs cannot replace it, and only its own key signs it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.reply_key import is_authentic, is_signed, new_reply_key
from flow_contracts.request import CONTRACT
from flow_contracts.result import FlowError, Status
from flow_contracts.servicebus import BeforeSend, DeadLetteredMessage, unconditionally
from flow_worker.dead_letters.actions import replay_job
from flow_worker.dead_letters.view import DeadLetterView, view_details
from flow_worker.journal import open_journal
from flow_worker.pipeline import decode
from flow_worker.pipeline.fragment import Fragment
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.outcome import Continue, Reply
from flow_worker.runtime.outbox import Outbox
from flow_worker.runtime.replies import Replies
from flow_worker.settings import JournalSettings
from tests.support.pipeline import (
    ADA,
    NOW,
    Clock,
    KnownSenders,
    OneByOne,
    ScriptedFlow,
    Worker,
    flow_answer,
    reply_of,
    request,
)

KEY = SecretStr("a-reply-key-of-the-sender-0123456789")
QUOTE = ScriptedFlow(flow_answer(200, {"quote": 7}))
IDS = {"message_id": "m-1", "correlation_id": "c-1", "reply_to_session_id": "s-1"}
MALLORY = KnownSenders(principal=replace(ADA, oid="mallory", roles=frozenset()))


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    clock = Clock()
    async with open_journal(JournalSettings(path=tmp_path / "journal.sqlite3"), now=clock) as journal:
        yield Worker(journal, clock)


class Queue(OneByOne):
    """Records the messages that it accepts."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        self.messages.append(message)


async def published(reply: Reply) -> Message:
    queue = Queue()
    replies = Replies(Outbox(queue), time_to_live=timedelta(days=1), publish_seconds=5)
    await replies.publish(reply, unconditionally)
    [message] = queue.messages
    return message


def keyed(message: ReceivedMessage, key: SecretStr | None) -> ReceivedMessage:
    properties = {"contract": CONTRACT} | ({"reply_key": key.get_secret_value()} if key else {})
    return replace(message, application_properties=properties)


def from_a_stranger(kind: str) -> ReceivedMessage:
    """Return a request with the victim's IDs that nobody may run; the broker has another identity for it."""
    messages: dict[str, ReceivedMessage] = {
        "without a claim": request(claim=None, **IDS),
        "without a role": request(**IDS),
        "for an unknown flow": request("nothing", **IDS),
        "of another contract": request(**IDS, application_properties={"contract": "other"}),
        "without a body": request(**IDS, body=b""),
        "expired": request(claim=None, **IDS, expires_at=NOW - timedelta(seconds=1)),
    }
    return replace(messages[kind], sequence_number=99, enqueued_at=NOW - timedelta(seconds=2))


KINDS = ["without a claim", "without a role", "for an unknown flow", "of another contract", "without a body", "expired"]


@pytest.mark.parametrize("key", [None, KEY], ids=["no key", "a key"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_stranger_with_the_same_ids_does_not_make_the_result_a_duplicate(
    worker: Worker, kind: str, key: SecretStr | None
) -> None:
    guessed = await published(reply_of(await worker.take(from_a_stranger(kind), QUOTE, MALLORY)))
    own = await published(reply_of(await worker.take(keyed(request(**IDS), key), QUOTE)))
    assert json.loads(guessed.body)["status"] == "refused"
    assert json.loads(own.body)["status"] == "succeeded"
    assert own.message_id != guessed.message_id, "duplicate detection drops the second message of an ID"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_that_is_published_twice_has_one_message_id(worker: Worker, kind: str) -> None:
    stranger = from_a_stranger(kind)
    first = await published(reply_of(await worker.take(stranger, QUOTE, MALLORY)))
    again = await published(reply_of(await worker.take(replace(stranger, delivery_count=1), QUOTE, MALLORY)))
    assert first.message_id == again.message_id


@pytest.mark.parametrize("kind", KINDS)
async def test_the_result_of_a_stranger_has_no_mac_under_the_senders_key(worker: Worker, kind: str) -> None:
    other = keyed(from_a_stranger(kind), new_reply_key()) if kind != "of another contract" else from_a_stranger(kind)
    reply = await published(reply_of(await worker.take(other, QUOTE, MALLORY)))
    assert not is_authentic(reply, KEY)


@pytest.mark.parametrize("message", [request(**IDS), request(**IDS, claim=None), request(**IDS, body=b"{")], ids=repr)
async def test_every_result_is_signed_with_the_key_of_its_request(worker: Worker, message: ReceivedMessage) -> None:
    reply = await published(reply_of(await worker.take(keyed(message, KEY), QUOTE)))
    assert is_authentic(reply, KEY)
    assert KEY.get_secret_value() not in f"{reply!r}{reply.body!r}{reply.application_properties}"


async def test_a_result_without_output_is_signed_too(worker: Worker) -> None:
    reply = reply_of(await worker.take(keyed(request(**IDS), KEY), QUOTE))
    assert is_authentic(await published(replace(reply, result=reply.result.without_output())), KEY)


async def test_a_request_without_a_key_gets_an_unsigned_result(worker: Worker) -> None:
    assert not is_signed(await published(reply_of(await worker.take(request(**IDS), QUOTE))))


async def test_the_key_survives_a_retry_and_a_status_poll(worker: Worker) -> None:
    run = flow_answer(202, location="https://flow.example/runs/1?sig=s")
    flow = ScriptedFlow(answers=[flow_answer(429, run=None, retry_after="1"), run, flow_answer(200, {"quote": 7})])
    waits = await worker.take(keyed(request(**IDS), KEY), flow)
    polls = await worker.resume(waits, flow)
    assert isinstance(polls, Continue)
    reply = await published(reply_of(await worker.resume(polls, flow)))
    assert is_authentic(reply, KEY)


async def test_the_key_is_a_property_of_a_continuation_and_no_field_of_its_body(worker: Worker) -> None:
    """Workers up to 0.1 refuse a continuation whose body has a new field."""
    waits = await worker.take(keyed(request(**IDS), KEY), ScriptedFlow(flow_answer(429, run=None, retry_after="1")))
    assert isinstance(waits, Continue)
    message = waits.continuation.to_message()
    assert message.application_properties["fw-reply-key"] == KEY.get_secret_value()
    assert b"reply_key" not in message.body
    assert KEY.get_secret_value().encode() not in message.body
    assert KEY.get_secret_value() not in repr(waits)
    dropped = replace(message, application_properties={"contract": message.application_properties["contract"]})
    assert Job.from_message(dropped).reply_key is None
    fragment = Fragment.of(message)
    assert fragment is not None
    assert fragment.address.reply_key == KEY


async def test_a_redelivery_gets_the_journals_result_with_its_mac(worker: Worker) -> None:
    message = keyed(request(**IDS), KEY)
    first = await published(reply_of(await worker.take(message, QUOTE)))
    again = await published(reply_of(await worker.take(replace(message, delivery_count=1), ScriptedFlow())))
    assert again == first


async def test_the_same_request_sent_again_under_a_new_key_gets_a_result_that_is_no_duplicate(worker: Worker) -> None:
    """A sender that restarted no longer knows the first key."""
    new = new_reply_key()
    first = await published(reply_of(await worker.take(keyed(request(**IDS), KEY), QUOTE)))
    message = replace(keyed(request(**IDS), new), sequence_number=2)
    again = await published(reply_of(await worker.take(message, ScriptedFlow())))
    assert is_authentic(again, new)
    assert (again.body, again.message_id == first.message_id) == (first.body, False)


def test_a_replay_keeps_the_key() -> None:
    job = decode.requests_of("flow-requests")(keyed(request(**IDS), KEY))
    replayed = Job.from_message(replay_job(job, "flow-requests", 7, NOW).to_message())
    assert replayed.reply_key == KEY


@pytest.mark.parametrize("name", ["reply_key", "Reply-Key", "fw-reply-key"])
def test_no_view_of_a_dead_letter_shows_the_key(name: str) -> None:
    properties: dict[str, Any] = {"contract": CONTRACT, name: KEY.get_secret_value()}
    message = request(**IDS, application_properties=properties)
    dead = DeadLetteredMessage(message, "reason", "description")
    reader = decode.requests_of("flow-requests")
    view = DeadLetterView.of("flow-requests", dead, reader)
    details = view_details(view, message, reader, with_input=True)
    assert KEY.get_secret_value() not in json.dumps(details)
    shown: Any = details["application_properties"]
    assert shown[name] == "***"


async def test_a_dead_letter_is_answered_with_a_mac(worker: Worker) -> None:
    error = FlowError(code="deliveries_exceeded", message="too often")
    outcome = await worker.handler(QUOTE).answer_dead_letter(
        keyed(request(**IDS), KEY), decode.requests_of("flow-requests"), Status.FAILED, error
    )
    assert is_authentic(await published(reply_of(outcome)), KEY)
