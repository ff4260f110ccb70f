"""How the messages of each queue are read: requests as their senders wrote them, continuations as the worker did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import assert_never

from flow_contracts.dataverse import ExecutionContext
from flow_contracts.message import ReceivedMessage
from flow_contracts.request import FlowRequest, InvalidRequest, ReplyAddress
from flow_worker.access.authorities import DataverseSender
from flow_worker.pipeline.handler import Reader
from flow_worker.pipeline.job import Job
from flow_worker.settings import RequestQueue


def readers(request_queues: Iterable[RequestQueue], continuations: str) -> dict[str, Reader]:
    """The readers of all queues that the worker listens to."""
    return {queue.name: reader_of(queue) for queue in request_queues} | {continuations: continuation}


def reader_of(queue: RequestQueue) -> Reader:
    """Return the reader of a request queue: the queue's authority decides the format of its messages."""
    match queue.authority:
        case "entra":
            return requests_of(queue.name)
        case "dataverse":
            return posts_of(queue)
        case _:
            assert_never(queue.authority)


def requests_of(queue: str) -> Reader:
    """A reader of the request queue `queue`. It raises `InvalidRequest` and `Unanswerable`."""

    def read(message: ReceivedMessage) -> Job:
        return Job.of(FlowRequest.from_message(message), message, queue)

    return read


def posts_of(queue: RequestQueue) -> Reader:
    """A reader of a queue into which only Dataverse may send. It raises `InvalidRequest` and `Unanswerable`.

    It decodes only: the job carries the sender as the message names it, and the queue's authority verifies it.
    """

    def read(message: ReceivedMessage) -> Job:
        try:
            context = ExecutionContext.from_message(message)
        except InvalidRequest as refusal:
            address = refusal.address and replace(refusal.address, queue=queue.reply_to)
            raise InvalidRequest(refusal.code, refusal.message, address=address) from None
        request = context.to_request(_flow_of(context, queue), reply_to=queue.reply_to)
        job = Job.of(request, message, queue.name)
        return job.model_copy(update={"dataverse_sender": _sender(context)})

    return read


def continuation(message: ReceivedMessage) -> Job:
    """Read a message of the continuation queue. Raises `InvalidContinuation`."""
    return Job.from_message(message)


def _flow_of(context: ExecutionContext, queue: RequestQueue) -> str:
    """The flow that the settings name for the message and its table, or for the message alone."""
    by_name = {name.lower(): flow for name, flow in queue.flows.items()}
    names = (f"{context.message_name}:{context.primary_entity}", context.message_name)
    for name in names if ":" not in context.message_name else ():  # no message's name has one
        if (flow := by_name.get(name.lower())) is not None:
            return flow
    if context.organization_id != queue.organization:
        # The authority refuses this message. Its refusal comes first: settings cannot map another organisation's
        # messages, so a missing mapping is not what its sender has to correct.
        return context.message_name
    address = ReplyAddress(context.message_id, context.correlation_id, context.correlation_id, queue.reply_to)
    sentence = (
        "No flow is named for this message: name one in the queue's setting 'flows', or narrow the step's filter."
    )
    raise InvalidRequest("message_not_mapped", sentence, address=address)


def _sender(context: ExecutionContext) -> DataverseSender:
    return DataverseSender(
        organization=context.organization_id,
        oid=context.initiating_user_oid,
        system_user=context.initiating_user_id,
    )
