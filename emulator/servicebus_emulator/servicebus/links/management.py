"""`<entity>/$management`: peek, schedule, deferred messages, locks and sessions by request and response."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TypeVar

from servicebus_emulator.amqp import Array, Int, Long, Symbol, Timestamp
from servicebus_emulator.servicebus.access.policies import Right
from servicebus_emulator.servicebus.entities.message import Message
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
from servicebus_emulator.servicebus.links.request_response import Request, Response

MAX_PEEKED_BYTES = 4 * 1024 * 1024
"""One answer holds no more messages than this, but one at least; who wants more asks again from there."""
_PREFIX = "com.microsoft:"
_T = TypeVar("_T")
_EMPTY = object()
_ALL_SESSIONS_MS = 253_402_300_800_000
"""`last-updated-time` when no moment is meant: the year 10000, .NET's largest date."""


def answer(queue: Queue, request: Request) -> Response:
    """Do what the request asks of the queue; every refusal is an answer too."""
    try:
        body = _carry_out(queue, request)
    except ServiceBusError as error:
        return refusal(error)
    if body is _EMPTY:
        return Response({"statusCode": Int(204), "statusDescription": "No Content"})
    return Response({"statusCode": Int(200), "statusDescription": "OK"}, body)


def right(request: Request) -> Right:
    """What the request needs: `Send` for messages to be sent later, else `Listen`."""
    return Right.SEND if request.properties.get("operation") in _SENDING else Right.LISTEN


def refusal(error: ServiceBusError) -> Response:
    """The answer that says why not."""
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
    if name in _OF_SUBSCRIPTIONS:
        raise ServiceBusError(NOT_IMPLEMENTED, f"'{name}' is for subscriptions, which are not supported; use queues")
    if operation is None:
        raise ServiceBusError(NOT_IMPLEMENTED, f"the operation '{name}' is not supported")
    if not isinstance(request.body, Mapping):
        raise ServiceBusError(ARGUMENT_ERROR, "the body must be a map")
    return operation(queue, _Arguments(request.body))


class _Arguments:
    """A request's map, each value read by its type. Any integer width will do: documents and SDKs disagree."""

    def __init__(self, values: Mapping[object, object]) -> None:
        self._values = {str(key): value for key, value in values.items()}

    def whole(self, name: str, default: int | None = None) -> int:
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ServiceBusError(ARGUMENT_ERROR, f"'{name}' must be a whole number")
        return int(value)

    def flag(self, name: str) -> bool:
        return bool(self._optional(name, bool))

    def moment(self, name: str) -> float:
        return self.whole(name) / 1000

    def text(self, name: str) -> str | None:
        return self._optional(name, str)

    def binary(self, name: str) -> bytes | None:
        return self._optional(name, bytes)

    def map(self, name: str) -> Mapping[str, object]:
        return {str(key): value for key, value in (self._optional(name, dict) or {}).items()}

    def numbers(self, name: str) -> list[int]:
        return [int(number) for number in self._items(name, int)]

    def tokens(self, name: str) -> list[uuid.UUID]:
        return self._items(name, uuid.UUID)

    def maps(self, name: str) -> list[dict[object, object]]:
        return self._items(name, dict)

    def _optional(self, name: str, kind: type[_T]) -> _T | None:
        value = self._values.get(name)
        if value is None or isinstance(value, kind):
            return value
        raise ServiceBusError(ARGUMENT_ERROR, f"'{name}' must be a {kind.__name__}")

    def _items(self, name: str, kind: type[_T]) -> list[_T]:
        values = self._values.get(name)
        if not isinstance(values, list | tuple) or not all(isinstance(value, kind) for value in values):
            raise ServiceBusError(ARGUMENT_ERROR, f"'{name}' must be a list of {kind.__name__}")
        return list(values)


def _renew_lock(queue: Queue, arguments: _Arguments) -> object:
    ends = [queue.renew(token) for token in arguments.tokens("lock-tokens")]
    return {"expirations": Array([_timestamp(end) for end in ends])}


def _renew_session_lock(queue: Queue, arguments: _Arguments) -> object:
    return {"expiration": _timestamp(queue.sessions.renew(arguments.text("session-id")))}


def _peek(queue: Queue, arguments: _Arguments) -> object:
    found = queue.peek(
        arguments.whole("from-sequence-number"), arguments.whole("message-count"), arguments.text("session-id")
    )
    without_body = arguments.flag("omit-message-body")
    messages: list[dict[str, object]] = []
    room = MAX_PEEKED_BYTES
    for one in found:
        payload = encode_peeked(one, without_body=without_body)
        room -= len(payload)
        if room < 0 and messages:
            break
        messages.append({"message": payload})
    return {"messages": messages} if messages else _EMPTY


def _schedule(queue: Queue, arguments: _Arguments) -> object:
    messages = [_embedded(entry) for entry in arguments.maps("messages")]
    return {"sequence-numbers": Array([Long(number) for number in queue.send(messages)])}


def _cancel_scheduled(queue: Queue, arguments: _Arguments) -> object:
    queue.cancel_scheduled(arguments.numbers("sequence-numbers"))
    return {}


def _receive_deferred(queue: Queue, arguments: _Arguments) -> object:
    queue.require_receivable()
    keep = arguments.whole("receiver-settle-mode", 1) == 1
    if queue.settings.requires_session and arguments.text("session-id") is None:
        raise ServiceBusError(NOT_ALLOWED, f"'{queue.settings.name}' requires sessions: name the 'session-id'")
    messages = queue.receive_deferred(
        arguments.numbers("sequence-numbers"), peek_lock=keep, session_id=arguments.text("session-id")
    )
    return {"messages": [_deferred(message) for message in messages]}


def _deferred(message: Message) -> dict[str, object]:
    token = message.lock_token
    entry: dict[str, object] = {"message": encode_delivery(message, lock_token=token)}
    return entry if token is None else entry | {"lock-token": token}


def _update_disposition(queue: Queue, arguments: _Arguments) -> object:
    status = arguments.text("disposition-status")
    changes = arguments.map("properties-to-modify")
    reason, description = arguments.text("deadletter-reason"), arguments.text("deadletter-description")
    settle: dict[str | None, Callable[[uuid.UUID], None]] = {
        "completed": queue.complete,
        "abandoned": lambda token: queue.abandon(token, changes),
        "defered": lambda token: queue.defer(token, changes),
        "suspended": lambda token: queue.dead_letter(token, reason, description, changes),
    }
    if status not in settle:
        raise ServiceBusError(ARGUMENT_ERROR, f"'disposition-status' must be one of {', '.join(map(str, settle))}")
    if queue.settings.requires_session and arguments.text("session-id") is not None:
        queue.sessions.require_locked(arguments.text("session-id"))  # else the session's lock is what was lost
    for token in arguments.tokens("lock-tokens"):
        settle[status](token)
    return {}


def _get_session_state(queue: Queue, arguments: _Arguments) -> object:
    return {"session-state": queue.sessions.get_state(arguments.text("session-id"))}


def _set_session_state(queue: Queue, arguments: _Arguments) -> object:
    state, limit = arguments.binary("session-state"), queue.settings.max_message_bytes
    if state is not None and len(state) > limit:
        raise ServiceBusError(MESSAGE_SIZE_EXCEEDED, f"the state has {len(state)} bytes; at most {limit} are kept")
    queue.sessions.set_state(arguments.text("session-id"), state)
    return {}


def _list_sessions(queue: Queue, arguments: _Arguments) -> object:
    if not queue.settings.requires_session:
        raise ServiceBusError(NOT_ALLOWED, f"'{queue.settings.name}' has no sessions")
    skip, top = arguments.whole("skip", 0), arguments.whole("top", 100)
    after = arguments.whole("last-updated-time", _ALL_SESSIONS_MS)
    state_after = None if after == _ALL_SESSIONS_MS else after / 1000
    found = queue.session_ids(skip, top, state_after=state_after)
    # The key is misspelt by the service, and so by every SDK.
    return {"skip": Int(skip + len(found)), "sessions-ids": found} if found else _EMPTY


def _purge(queue: Queue, arguments: _Arguments) -> object:
    count, before = arguments.whole("message-count"), arguments.moment("enqueued-time-utc")
    if count < 1:
        raise ServiceBusError(ARGUMENT_ERROR, "'message-count' must be 1 or more")
    deleted = queue.purge(count, before=before, session_id=arguments.text("session-id"))
    return {"message-count": Int(deleted)} if deleted else _EMPTY


def _embedded(entry: Mapping[object, object]) -> Message:
    payload = {str(key): value for key, value in entry.items()}.get("message")
    if not isinstance(payload, bytes):
        raise ServiceBusError(ARGUMENT_ERROR, "each entry of 'messages' must hold a 'message' of bytes")
    message = parse_message(payload)
    if message.scheduled_at is None:
        raise ServiceBusError(ARGUMENT_ERROR, "the message says no time to schedule it at")
    return message


def _timestamp(seconds: float) -> Timestamp:
    return Timestamp(int(seconds * 1000))


_OPERATIONS: dict[str, Callable[[Queue, _Arguments], object]] = {
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
_OF_SUBSCRIPTIONS = frozenset(_PREFIX + name for name in ("add-rule", "remove-rule", "enumerate-rules"))
