"""Decoding: native Dataverse messages become requests or refusals."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.request import InvalidRequest
from flow_worker.access.authorities import Evidence
from flow_worker.access.dataverse import DataverseAuthority
from flow_worker.access.principal import Principal
from flow_worker.errors import Refused
from flow_worker.pipeline import decode
from flow_worker.pipeline.job import Job
from flow_worker.settings import RequestQueue
from tests.unit.contracts.dataverse_samples import (
    CORRELATION,
    ORGANIZATION,
    SYSTEM_USER,
    USER,
    ZEROS,
    custom_api,
    posted,
    update,
)

QUEUE = RequestQueue(
    name="dataverse-requests",
    authority="dataverse",
    organization=ORGANIZATION.upper(),
    flows={"Update:contact": "sync-contact", "update": "log-update", "NEW_startquote": "create-quote"},
    reply_to="dataverse-replies",
)
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def received(message: Message) -> ReceivedMessage:
    return ReceivedMessage(
        **{name: getattr(message, name) for name in Message.__dataclass_fields__},
        sequence_number=7,
        enqueued_at=NOW,
        delivery_count=1,
        expires_at=None,
    )


def refusal_of(message: Message, queue: RequestQueue = QUEUE) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        decode.posts_of(queue)(received(message))
    return refusal.value


async def principal_of(job: Job) -> Principal:
    """Return the principal that the queue's authority proves."""
    assert job.principal is None, "decoding proves nothing"
    evidence = Evidence(job.claim, job.accepted, job.dataverse_sender)
    return (await DataverseAuthority(ORGANIZATION).authenticate(evidence)).principal


async def test_a_native_message_is_a_request_of_the_user_who_started_the_operation() -> None:
    job = decode.posts_of(QUEUE)(received(posted(update())))
    principal = await principal_of(job)
    assert (job.flow, job.correlation_id, job.reply_to) == ("sync-contact", CORRELATION, "dataverse-replies")
    assert (principal.authority, principal.tenant) == ("dataverse", ORGANIZATION)
    assert (principal.oid, principal.system_user) == (USER, None)
    assert principal.roles == frozenset()
    assert job.claim is None


async def test_a_user_without_object_id_is_known_by_the_dataverse_row() -> None:
    job = decode.posts_of(QUEUE)(received(posted(update(InitiatingUserAzureActiveDirectoryObjectId=ZEROS))))
    principal = await principal_of(job)
    assert (principal.oid, principal.system_user) == ("", SYSTEM_USER)
    assert job.model_copy(update={"principal": principal}).user is None


@pytest.mark.parametrize(
    ("message", "table", "flow"),
    [("Update", "contact", "sync-contact"), ("UPDATE", "account", "log-update"), ("Update", "none", "log-update")],
)
def test_a_flow_for_message_and_table_takes_precedence_over_one_for_the_message(
    message: str, table: str, flow: str
) -> None:
    job = decode.posts_of(QUEUE)(received(posted(update(MessageName=message, PrimaryEntityName=table))))
    assert job.flow == flow


def test_the_name_of_a_custom_api_is_matched_without_regard_to_case() -> None:
    assert decode.posts_of(QUEUE)(received(posted(custom_api(Amount=5)))).flow == "create-quote"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (posted(update(InputParameters=None)), "malformed_request"),
    ],
)
def test_a_refused_native_message_is_answered_in_the_reply_queue_of_its_settings(message: Message, code: str) -> None:
    refused = refusal_of(message)
    assert refused.code == code
    assert refused.address is not None
    assert (refused.address.correlation_id, refused.address.queue) == (CORRELATION, "dataverse-replies")


async def test_a_mapped_message_of_another_organization_is_refused_by_the_authority() -> None:
    job = decode.posts_of(QUEUE)(received(posted(update(OrganizationId=USER))))
    with pytest.raises(Refused) as refused:
        await principal_of(job)
    assert refused.value.code == "organization_unknown"
    assert (job.address.correlation_id, job.address.queue) == (CORRELATION, "dataverse-replies")


@pytest.mark.parametrize("message_name", ["Delete", "Update:contact", "new_" + "x" * 200])
async def test_an_unmapped_message_is_a_job_of_no_flow_and_its_organization_is_judged_first(message_name: str) -> None:
    """A name of 256 characters is a valid message name but not a valid flow name: it must not become one."""
    job = decode.posts_of(QUEUE)(received(posted(update(MessageName=message_name))))
    assert (job.flow, job.address.correlation_id, job.address.queue) == ("", CORRELATION, "dataverse-replies")
    foreign = decode.posts_of(QUEUE)(received(posted(update(OrganizationId=USER, MessageName=message_name))))
    with pytest.raises(Refused) as refused:
        await principal_of(foreign)
    assert refused.value.code == "organization_unknown"


async def test_application_properties_that_imitate_dataverse_are_ignored() -> None:
    claims = "http://schemas.microsoft.com/xrm/2011/Claims/"
    labels = {f"{claims}InitiatingUser": ZEROS, f"{claims}User": ZEROS, f"{claims}Organization": "elsewhere"}
    post = posted(update())
    job = decode.posts_of(QUEUE)(
        received(replace(post, application_properties={**post.application_properties, **labels}))
    )
    assert (await principal_of(job)).oid == USER


def test_flow_requests_and_native_messages_are_not_mistaken_for_each_other() -> None:
    ours = Message(
        body=b'{"flow": "create-quote", "claim": "x"}',
        message_id="m",
        application_properties={"contract": "flow-request/1"},
        content_type="application/json",
    )
    with pytest.raises(Exception, match=r"malformed_request|names no operation"):
        decode.posts_of(QUEUE)(received(ours))
    with pytest.raises(InvalidRequest) as refusal:
        decode.requests_of("flow-requests")(received(replace(posted(update()), message_id="m")))
    assert refusal.value.code == "unsupported_contract"


@pytest.mark.parametrize(("size", "in_loop"), [(1 << 16, True), ((1 << 16) + 1, False)])
async def test_a_large_body_is_decoded_in_a_thread(size: int, *, in_loop: bool) -> None:
    threads = []

    def read(message: ReceivedMessage) -> Job:
        threads.append(threading.current_thread())
        raise InvalidRequest("malformed_request", "no")

    with pytest.raises(InvalidRequest):
        await decode.decode(received(Message(body=b" " * size)), read)
    assert (threads == [threading.current_thread()]) is in_loop


@pytest.mark.parametrize(
    "fields", [{"content_encoding": "gzip"}, {"application_properties": {"Content-Encoding": "x"}}]
)
async def test_a_compressed_body_is_decoded_in_a_thread(fields: dict[str, Any]) -> None:
    threads = []

    def read(message: ReceivedMessage) -> Job:
        threads.append(threading.current_thread())
        raise InvalidRequest("malformed_request", message.body.decode())

    with pytest.raises(InvalidRequest):
        await decode.decode(received(Message(body=b"{}", **fields)), read)
    assert threads != [threading.current_thread()]
