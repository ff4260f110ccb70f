"""The `$management` node of a queue: peek, schedule, deferred messages, locks and sessions.

Source: Microsoft Learn, "AMQP 1.0 request/response operations in Azure Service Bus".
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import assert_never

from servicebus_emulator.amqp import Array, Int, Long, Symbol, Timestamp
from servicebus_emulator.servicebus.access.policies import Right
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.message_encoding import encode_delivery, encode_peeked, parse_message
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.errors import (
    ARGUMENT_ERROR,
    MESSAGE_SIZE_EXCEEDED,
    NOT_ALLOWED,
    NOT_IMPLEMENTED,
    STATUS,
    ServiceBusError,
)
from servicebus_emulator.servicebus.links.management_arguments import Arguments
from servicebus_emulator.servicebus.links.request_response import Request, Response

MAX_PEEKED_BYTES = 4 * 1024 * 1024
"""The maximum size of the messages in one response; it holds one message at least. A client peeks on from there."""
_PREFIX = "com.microsoft:"
_NO_CONTENT = object()
_ALL_SESSIONS_MS = 253_402_300_800_000
"""The `last-updated-time` of a client that means no moment: the year 10000, after .NET's largest date."""
_PEEK_LOCK = 1
"""The receiver-settle-mode "second" (AMQP 1.0 part 2 section 2.8.3)."""
_DEFAULT_SESSIONS = 100


class DispositionStatus(StrEnum):
    """The settlements that update-disposition knows. The service spells "defered" with one r."""

    COMPLETED = "completed"
    ABANDONED = "abandoned"
    DEFERRED = "defered"
    SUSPENDED = "suspended"
    """Dead-lettered."""


def respond(queue: Queue, request: Request) -> Response:
    """Carry out a request. An error is a response too."""
    try:
        body = _carry_out(queue, request)
    except ServiceBusError as error:
        return error_response(error)
    if body is _NO_CONTENT:
        return Response({"statusCode": Int(204), "statusDescription": "No Content"})
    return Response({"statusCode": Int(200), "statusDescription": "OK"}, body)


def required_right(request: Request) -> Right:
    """Return the right that the request needs: Send to schedule or cancel messages, Listen for the rest."""
    return Right.SEND if request.properties.get("operation") in _SENDING else Right.LISTEN


def error_response(error: ServiceBusError) -> Response:
    """Return the response that reports an error."""
    return Response(
        {
            "statusCode": Int(STATUS.get(error.condition, 500)),
            "statusDescription": error.description,
            "errorCondition": Symbol(error.condition),
        }
    )


def _carry_out(queue: Queue, request: Request) -> object:
    name = str(request.properties.get("operation", ""))
    operation = _OPERATIONS.get(name)
    if name in _SUBSCRIPTION_OPERATIONS:
        raise ServiceBusError(NOT_IMPLEMENTED, f"'{name}' is for subscriptions, which are not supported; use queues")
    if operation is None:
        raise ServiceBusError(NOT_IMPLEMENTED, f"the operation '{name}' is not supported")
    if not isinstance(request.body, Mapping):
        raise ServiceBusError(ARGUMENT_ERROR, "the body must be a map")
    return operation(queue, Arguments(request.body))


# --- messages ----------------------------------------------------------------------------------------------------


def _peek(queue: Queue, arguments: Arguments) -> object:
    peeked = queue.peek(
        arguments.integer("from-sequence-number"), arguments.integer("message-count"), arguments.text("session-id")
    )
    without_body = arguments.boolean("omit-message-body")
    messages: list[dict[str, object]] = []
    room = MAX_PEEKED_BYTES
    for message in peeked:
        payload = encode_peeked(message, without_body=without_body)
        room -= len(payload)
        if room < 0 and messages:
            break
        messages.append({"message": payload})
    return {"messages": messages} if messages else _NO_CONTENT


def _purge(queue: Queue, arguments: Arguments) -> object:
    count, before = arguments.integer("message-count"), arguments.moment("enqueued-time-utc")
    if count < 1:
        raise ServiceBusError(ARGUMENT_ERROR, "'message-count' must be 1 or more")
    purged = queue.purge(count, before=before, session_id=arguments.text("session-id"))
    return {"message-count": Int(purged)} if purged else _NO_CONTENT


def _schedule(queue: Queue, arguments: Arguments) -> object:
    messages = [_scheduled_message(entry) for entry in arguments.maps("messages")]
    return {"sequence-numbers": Array([Long(number) for number in queue.send(messages)])}


def _scheduled_message(entry: Mapping[object, object]) -> BrokeredMessage:
    payload = {str(key): value for key, value in entry.items()}.get("message")
    if not isinstance(payload, bytes):
        raise ServiceBusError(ARGUMENT_ERROR, "each entry of 'messages' must hold a 'message' of bytes")
    message = parse_message(payload)
    if message.scheduled_at is None:
        raise ServiceBusError(ARGUMENT_ERROR, "the message says no time to schedule it at")
    return message


def _cancel_scheduled(queue: Queue, arguments: Arguments) -> object:
    queue.cancel_scheduled(arguments.integers("sequence-numbers"))
    return {}


def _receive_deferred(queue: Queue, arguments: Arguments) -> object:
    queue.require_receivable()
    peek_lock = arguments.integer("receiver-settle-mode", _PEEK_LOCK) == _PEEK_LOCK
    session_id = arguments.text("session-id")
    if queue.settings.requires_session and session_id is None:
        raise ServiceBusError(NOT_ALLOWED, f"'{queue.settings.name}' requires sessions: name the 'session-id'")
    numbers = arguments.integers("sequence-numbers")
    messages = queue.receive_deferred(numbers, peek_lock=peek_lock, session_id=session_id)
    return {"messages": [_deferred_entry(message) for message in messages]}


def _deferred_entry(message: BrokeredMessage) -> dict[str, object]:
    token = message.lock_token
    entry: dict[str, object] = {"message": encode_delivery(message, lock_token=token)}
    return entry if token is None else entry | {"lock-token": token}


# --- locks -------------------------------------------------------------------------------------------------------


def _renew_lock(queue: Queue, arguments: Arguments) -> object:
    ends = [queue.renew(token) for token in arguments.uuids("lock-tokens")]
    return {"expirations": Array([_timestamp(end) for end in ends])}


def _update_disposition(queue: Queue, arguments: Arguments) -> object:
    status = _disposition_status(arguments)
    if queue.settings.requires_session and arguments.text("session-id") is not None:
        # Checked first, so that an expired session is reported as session-lock-lost and not as message-lock-lost.
        queue.sessions.require_locked(arguments.text("session-id"))
    for token in arguments.uuids("lock-tokens"):
        _settle(queue, token, status, arguments)
    return {}


def _disposition_status(arguments: Arguments) -> DispositionStatus:
    try:
        return DispositionStatus(str(arguments.text("disposition-status")))
    except ValueError:
        text = f"'disposition-status' must be one of {', '.join(DispositionStatus)}"
        raise ServiceBusError(ARGUMENT_ERROR, text) from None


def _settle(queue: Queue, token: uuid.UUID, status: DispositionStatus, arguments: Arguments) -> None:
    properties = arguments.map("properties-to-modify")
    match status:
        case DispositionStatus.COMPLETED:
            queue.complete(token)
        case DispositionStatus.ABANDONED:
            queue.abandon(token, properties)
        case DispositionStatus.DEFERRED:
            queue.defer(token, properties)
        case DispositionStatus.SUSPENDED:
            reason, description = arguments.text("deadletter-reason"), arguments.text("deadletter-description")
            queue.dead_letter(token, reason, description, properties)
        case _:
            assert_never(status)


# --- sessions ----------------------------------------------------------------------------------------------------


def _renew_session_lock(queue: Queue, arguments: Arguments) -> object:
    return {"expiration": _timestamp(queue.sessions.renew(arguments.text("session-id")))}


def _get_session_state(queue: Queue, arguments: Arguments) -> object:
    return {"session-state": queue.sessions.get_state(arguments.text("session-id"))}


def _set_session_state(queue: Queue, arguments: Arguments) -> object:
    state, limit = arguments.binary("session-state"), queue.settings.max_message_bytes
    if state is not None and len(state) > limit:
        raise ServiceBusError(MESSAGE_SIZE_EXCEEDED, f"the state has {len(state)} bytes; at most {limit} are kept")
    queue.sessions.set_state(arguments.text("session-id"), state)
    return {}


def _list_sessions(queue: Queue, arguments: Arguments) -> object:
    if not queue.settings.requires_session:
        raise ServiceBusError(NOT_ALLOWED, f"'{queue.settings.name}' has no sessions")
    skip, top = arguments.integer("skip", 0), arguments.integer("top", _DEFAULT_SESSIONS)
    updated_after = arguments.integer("last-updated-time", _ALL_SESSIONS_MS)
    state_after = None if updated_after == _ALL_SESSIONS_MS else updated_after / 1000
    ids = queue.session_ids(skip, top, state_after=state_after)
    # The service misspells the key, and so do the SDKs.
    return {"skip": Int(skip + len(ids)), "sessions-ids": ids} if ids else _NO_CONTENT


def _timestamp(seconds: float) -> Timestamp:
    return Timestamp(int(seconds * 1000))


_OPERATIONS: dict[str, Callable[[Queue, Arguments], object]] = {
    _PREFIX + "renew-lock": _renew_lock,
    _PREFIX + "renew-session-lock": _renew_session_lock,
    _PREFIX + "peek-message": _peek,
    _PREFIX + "schedule-message": _schedule,
    _PREFIX + "cancel-scheduled-message": _cancel_scheduled,
    _PREFIX + "receive-by-sequence-number": _receive_deferred,
    _PREFIX + "update-disposition": _update_disposition,
    _PREFIX + "get-session-state": _get_session_state,
    _PREFIX + "set-session-state": _set_session_state,
    _PREFIX + "get-message-sessions": _list_sessions,
    _PREFIX + "batch-delete-messages": _purge,
}
_SENDING = frozenset(_PREFIX + name for name in ("schedule-message", "cancel-scheduled-message"))
_SUBSCRIPTION_OPERATIONS = frozenset(_PREFIX + name for name in ("add-rule", "remove-rule", "enumerate-rules"))
