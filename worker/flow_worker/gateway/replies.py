"""Tells what a message of the gateway's reply queue is: a result, a state, or something that nobody can read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from flow_contracts.gateway_replies import InvalidState, RequestProgress, is_state, is_unproven
from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.result import CONTRACT, FlowResult
from flow_worker.access.gateway_message_ids import request_id_of
from flow_worker.gateway.store.port import RequestState, Standing, StateName, StoredResult

_LATER_CONTRACT = re.compile(r"flow-result/[0-9]{1,9}")
_MAX_ATTEMPTS = 1 << 31
"""More than the settings allow. A store holds numbers of bounded size."""
_MAX_YEAR = 9998
"""The conversion of a time in the last year to UTC may leave the range."""


@dataclass(frozen=True, slots=True)
class ResultReply:
    """The result of a request."""

    request_id: str
    result: StoredResult
    standing: Standing
    flow: str | None


@dataclass(frozen=True, slots=True)
class StateReply:
    """The state of a request."""

    request_id: str
    state: RequestState


@dataclass(frozen=True, slots=True)
class UnreadableReply:
    """A message that this version cannot read."""

    reason: str
    """The reason of its dead letter."""
    cause: str


Reply = ResultReply | StateReply | UnreadableReply


class _Envelope(BaseModel):
    """The part of a result that the gateway reads. It passes the rest on as it came.

    The worker alone may send to the queue, and its results are strict JSON. The checks of `FlowResult.from_message`,
    which are for queues where others may send, take 80 ms for a result of 400 KB; this takes five.
    """

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    status: str = Field(min_length=1)
    flow: str | None = None
    correlation_id: str = Field(min_length=1)
    request_message_id: str = Field(min_length=1)
    replay_of: str | None = None
    settled_by: str | None = None


def reply_of(message: ReceivedMessage) -> Reply:
    """Return what the message says. For a thread, if it is large."""
    if message.undecodable:
        return UnreadableReply("reply_unreadable", f"parts of it cannot be decoded: {', '.join(message.undecodable)}")
    try:
        return _state_of(message) if is_state(message) else _result_of(message)
    except Exception as error:  # noqa: BLE001 - one message must not stop every gateway that receives it
        return UnreadableReply("reply_unreadable", f"internal error ({type(error).__name__})")


def _state_of(message: ReceivedMessage) -> Reply:
    try:
        progress = RequestProgress.from_message(message)
    except InvalidState as error:
        return UnreadableReply("reply_unreadable", str(error))
    until = None if progress.until is None else _in_range(progress.until)
    attempts = min(progress.attempts, _MAX_ATTEMPTS)
    state = RequestState(StateName(progress.state), _in_range(progress.at), until, progress.code, attempts)
    return StateReply(request_id_of(progress.request), state)


def _in_range(at: datetime) -> datetime:
    return at.replace(year=max(2, min(_MAX_YEAR, at.year))).astimezone(UTC)


def _result_of(message: ReceivedMessage) -> Reply:
    contract = message.application_properties.get("contract")
    if contract != CONTRACT:
        is_later = isinstance(contract, str) and _LATER_CONTRACT.fullmatch(contract) is not None
        reason = "result_unsupported" if is_later else "result_unreadable"
        return UnreadableReply(reason, f"the application property 'contract' is not '{CONTRACT}'")
    try:
        envelope = _Envelope.model_validate(from_json(message.body, allow_inf_nan=False))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(step) for step in problem["loc"])
        return UnreadableReply("result_unreadable", f"the body is no result: '{where}' {problem['msg']}")
    except ValueError:
        return UnreadableReply("result_unreadable", "the body is not JSON")
    standing = Standing.FIRST
    if is_unproven(message):
        standing = Standing.UNPROVEN
    elif envelope.replay_of is not None:
        standing = Standing.REPLAY
    elif envelope.settled_by is not None:
        standing = Standing.SETTLED
    # The body as it came: a later worker may have added fields, which the reader of the result may know.
    result = StoredResult(message.body, message.enqueued_at)
    request_id = request_id_of(envelope.replay_of or envelope.request_message_id)
    return ResultReply(request_id, result, standing, envelope.flow)


def without_output(message: Message, result: StoredResult) -> StoredResult:
    """Return the result without its output, for a store that cannot keep a result of its size. For a thread.

    Raises `InvalidResult`.
    """
    less = FlowResult.from_message(message).without_output(output_bytes=len(result.body))
    return StoredResult(less.model_dump_json().encode(), result.at)
