"""Tells what a message of the gateway's reply queue is: a result, a state, or something that nobody can read."""

from __future__ import annotations

from dataclasses import dataclass

from flow_contracts.gateway_replies import InvalidState, RequestProgress, is_state, is_unproven
from flow_contracts.message import ReceivedMessage
from flow_contracts.result import FlowResult, InvalidResult, UnsupportedResult
from flow_worker.gateway.store.port import RequestState, Standing, StateName, StoredResult


@dataclass(frozen=True, slots=True)
class ResultReply:
    """The result of a request."""

    request_id: str
    result: StoredResult
    standing: Standing
    parsed: FlowResult

    def without_output(self) -> ResultReply:
        """Return the reply without its output, for a store that cannot keep a result of its size."""
        less = self.parsed.without_output(output_bytes=len(self.result.body))
        body = less.model_dump_json().encode()
        return ResultReply(self.request_id, StoredResult(body, self.result.at), self.standing, less)


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


def reply_of(message: ReceivedMessage) -> Reply:
    """Return what the message says."""
    if message.undecodable:
        return UnreadableReply("reply_unreadable", f"parts of it cannot be decoded: {', '.join(message.undecodable)}")
    return _state_of(message) if is_state(message) else _result_of(message)


def _state_of(message: ReceivedMessage) -> Reply:
    try:
        progress = RequestProgress.from_message(message)
    except InvalidState as error:
        return UnreadableReply("reply_unreadable", str(error))
    state = RequestState(
        StateName(progress.state), progress.at, progress.until, progress.code, min(progress.attempts, _MAX_ATTEMPTS)
    )
    return StateReply(progress.request, state)


_MAX_ATTEMPTS = 1 << 31
"""More than the settings allow. A store holds numbers of bounded size."""


def _result_of(message: ReceivedMessage) -> Reply:
    try:
        parsed = FlowResult.from_message(message)
    except UnsupportedResult as error:
        return UnreadableReply("result_unsupported", str(error))
    except InvalidResult as error:
        return UnreadableReply("result_unreadable", str(error))
    standing = Standing.FIRST
    if is_unproven(message):
        standing = Standing.UNPROVEN
    elif parsed.replay_of is not None:
        standing = Standing.REPLAY
    # The body as it came: a later worker may have added fields, which the reader of the result may know.
    result = StoredResult(message.body, message.enqueued_at)
    return ResultReply(parsed.replay_of or parsed.request_message_id, result, standing, parsed)
