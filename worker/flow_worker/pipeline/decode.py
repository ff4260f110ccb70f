"""Decodes the messages of each queue into jobs: requests, native Dataverse messages and continuations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import assert_never

from flow_contracts import strict_json
from flow_contracts.dataverse import ExecutionContext
from flow_contracts.dataverse.message_body import unreadable
from flow_contracts.message import ReceivedMessage
from flow_contracts.request import FlowRequest, InvalidRequest
from flow_contracts.request_body import is_compressed
from flow_worker.access.authorities import DataverseSender
from flow_worker.pipeline.job import InvalidContinuation, Job, UnprovenContinuation
from flow_worker.pipeline.seal import Seal, SealState
from flow_worker.settings import RequestQueue

_UNDECODABLE_BODY = (
    "The message's body is no AMQP value that the worker can decode: it is broken or too large, has an unknown type, "
    "more than 64 levels or more than 5,000 values, or sections of several kinds. Send the JSON as the bytes of a data "
    "section."
)

Reader = Callable[[ReceivedMessage], Job]
"""Decodes a message of one queue.

Raises `InvalidRequest` and `Unanswerable`, or for a continuation `InvalidContinuation` and `UnprovenContinuation`.
"""

_MAX_LOOP_BYTES = 1 << 16

_MAX_UNPROVEN_VALUES = strict_json.MAX_VALUES + 1_000
"""The values of a continuation that may be a stranger's: those of a request's body, and the fields of the job."""

_large_bodies = ThreadPoolExecutor(1, "decode")
"""One thread: several would take the interpreter's lock from the event loop in turn."""


async def decode(message: ReceivedMessage, read: Reader) -> Job:
    """Decode a message; a large one in a thread, so that the other lanes go on meanwhile. Raises what `read` raises."""
    if len(message.body) <= _MAX_LOOP_BYTES and not is_compressed(message):
        return read(message)
    return await asyncio.get_running_loop().run_in_executor(_large_bodies, read, message)


def readers(request_queues: Iterable[RequestQueue], continuations: str, seal: Seal | None) -> dict[str, Reader]:
    """Return the reader of each queue that the worker receives from, by the queue's name.

    `seal`: None if the key is not at hand. The continuations are then decoded without a proof, only to be shown.
    """
    continuation = unproven_continuation if seal is None else continuations_of(seal)
    return {queue.name: reader_of(queue) for queue in request_queues} | {continuations: continuation}


def reader_of(queue: RequestQueue) -> Reader:
    """Return the reader of a request queue: the queue's authority decides the format of its messages."""
    match queue.authority:
        case "entra":
            return requests_of(queue.name)
        case "dataverse":
            return posts_of(queue)
        case "gateway":
            return gateway_requests_of(queue)
        case _:
            assert_never(queue.authority)


def requests_of(queue: str) -> Reader:
    """Return the reader of the request queue `queue`. It raises `InvalidRequest` and `Unanswerable`."""

    def read(message: ReceivedMessage) -> Job:
        _require_body(message)
        return Job.from_request(FlowRequest.from_message(message), message, queue)

    return read


def gateway_requests_of(queue: RequestQueue) -> Reader:
    """Return the reader of a queue to which only gateways may send. It raises `InvalidRequest` and `Unanswerable`.

    The results go to the gateway's reply queue, whatever the message says.
    """
    read_request = requests_of(queue.name)

    def read(message: ReceivedMessage) -> Job:
        return read_request(message).model_copy(update={"reply_to": queue.reply_to})

    return read


def posts_of(queue: RequestQueue) -> Reader:
    """Return the reader of a queue to which only Dataverse may send. It raises `InvalidRequest` and `Unanswerable`.

    The reader decodes only: the job carries the sender that the message names, and the queue's authority verifies it.
    """

    def read(message: ReceivedMessage) -> Job:
        try:
            _require_body(message)
            context = ExecutionContext.from_message(message)
        except InvalidRequest as refusal:
            address = refusal.address and replace(refusal.address, queue=queue.reply_to)
            raise InvalidRequest(refusal.code, refusal.message, address=address) from None
        # A request cannot have an empty flow, and a job whose message is not mapped has one.
        request = context.to_request("unmapped", reply_to=queue.reply_to)
        job = Job.from_request(request, message, queue.name)
        return job.model_copy(update={"flow": _flow_of(context, queue), "dataverse_sender": _sender(context)})

    return read


def continuations_of(seal: Seal) -> Reader:
    """Return the reader of the continuation queue. It raises `InvalidContinuation` and `UnprovenContinuation`."""

    def read(message: ReceivedMessage) -> Job:
        # Before the body is parsed: no field of it says anything until the seal proves it.
        state = seal.check(message)
        if state is SealState.BROKEN:
            raise InvalidContinuation("another program changed or moved it", other_version=False, seal=state)
        try:
            if state is not SealState.VALID:
                strict_json.require_few_values(message.body, _MAX_UNPROVEN_VALUES)
            job = Job.from_message(message)
        except InvalidContinuation as error:
            error.seal = state
            raise
        except strict_json.NotJson as error:
            raise InvalidContinuation(f"its body {error}", other_version=False, seal=state) from None
        if state is not SealState.VALID:
            raise UnprovenContinuation(job, state)
        return job

    return read


def unproven_continuation(message: ReceivedMessage) -> Job:
    """Decode a continuation without its proof, to show it to a person. Raises `InvalidContinuation`."""
    return Job.from_message(message)


def _require_body(message: ReceivedMessage) -> None:
    """Raise `InvalidRequest` or `Unanswerable` if the adapter could not decode the message's body."""
    if "body" in message.undecodable:
        raise unreadable("malformed_request", _UNDECODABLE_BODY, message)


def _flow_of(context: ExecutionContext, queue: RequestQueue) -> str:
    """Return the flow that the settings name for the message and its table, or for the message alone.

    It is empty if there is none. `Admission.authorize` refuses the message then, after its sender is proven: the
    refusal must not differ from that of a user who may not start the flow.
    """
    by_name = {name.lower(): flow for name, flow in queue.flows.items()}
    names = (f"{context.message_name}:{context.primary_entity}", context.message_name)
    # Dataverse message names contain no colon. A forged one must not match a setting for a message and its table.
    for name in names if ":" not in context.message_name else ():
        if (flow := by_name.get(name.lower())) is not None:
            return flow
    return ""


def _sender(context: ExecutionContext) -> DataverseSender:
    return DataverseSender(
        organization=context.organization_id,
        oid=context.initiating_user_oid,
        system_user=context.initiating_user_id,
    )
