"""The REST data plane of queues, for programs without AMQP such as Dataverse plug-ins.

Source: Microsoft Learn, "Service Bus REST API": send message, send message batch, peek-lock, receive and delete,
delete, unlock, renew-lock. That API has no operation to receive from sessions, to defer or to dead-letter.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable
from urllib.parse import quote, unquote

from aiohttp import web

from servicebus_emulator.admin import messages
from servicebus_emulator.admin.properties import BROKER_PROPERTIES, read_broker_properties, read_headers
from servicebus_emulator.admin.requests import method_not_allowed, read_body, status_response
from servicebus_emulator.servicebus.access import Authorizer, Right
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, MESSAGE_SIZE_EXCEEDED, NOT_ALLOWED, ServiceBusError
from servicebus_emulator.servicebus.faults import FaultPoint
from servicebus_emulator.servicebus.links.sender_link import batch_limit

BATCH_TYPE = "application/vnd.microsoft.servicebus.json"
DEFAULT_TIMEOUT_SECONDS = 60
MAX_TIMEOUT_SECONDS = 300
_PATH = re.compile(
    r"(?P<queue>.+)/messages(?:/(?:(?P<head>head)|(?P<number>[^/]+)/(?P<token>[^/]+)))?/?", re.IGNORECASE
)
_JSON_OVERHEAD = 4
"""The JSON of a batch may be this many times as long as its messages."""


class DataPlane:
    """Handles the paths below `/{queue}/messages`."""

    def __init__(self, broker: Broker, authorizer: Authorizer) -> None:
        self._broker = broker
        self._authorizer = authorizer
        self._receivers: set[_HttpReceiver] = set()
        broker.add_link_breaker(self._break)

    async def answer(self, request: web.Request, raw_path: str) -> web.Response | None:
        """Answer a request; return None if the path is not part of the data plane.

        Raises `ServiceBusError` if the request is refused.
        """
        path = _PATH.fullmatch(raw_path)
        if path is None:
            return None
        name = unquote(path["queue"])
        if path["head"]:
            return await self._receive(request, name)
        if path["token"]:
            return self._settle(request, name, unquote(path["number"]), unquote(path["token"]))
        return await self._send(request, name)

    async def _send(self, request: web.Request, name: str) -> web.Response:
        if request.method != "POST":
            return method_not_allowed(request, "POST")
        queue = self._queue(request, name, Right.SEND)
        if queue.dead_letters is None:
            raise ServiceBusError(NOT_ALLOWED, "Nothing can be sent to a dead-letter queue.")
        self._broker.faults.check(FaultPoint.SEND, queue.settings.name)
        is_batch = request.content_type.lower() == BATCH_TYPE
        sent = await self._batch(request, queue) if is_batch else [await self._single(request, queue)]
        queue.send(sent)
        self._broker.storage.flush()
        return web.Response(status=201)

    async def _single(self, request: web.Request, queue: Queue) -> BrokeredMessage:
        broker_properties = read_broker_properties(request.headers.get(BROKER_PROPERTIES))
        properties = read_headers(request.raw_headers)
        content_type = request.headers.get("Content-Type")
        if content_type is not None and not content_type.isascii():
            raise ServiceBusError(ARGUMENT_ERROR, "Content-Type: must be ASCII.")
        body = await read_body(request, queue.settings.max_message_bytes)
        return messages.to_message(body, broker_properties, properties, content_type, self._broker.now())

    async def _batch(self, request: web.Request, queue: Queue) -> list[BrokeredMessage]:
        limit = batch_limit(queue.settings)
        batch = messages.read_batch(await read_body(request, _JSON_OVERHEAD * limit), self._broker.now())
        if sum(message.size for message in batch) > limit:
            raise ServiceBusError(MESSAGE_SIZE_EXCEEDED, f"'{queue.settings.name}' takes {limit} bytes a batch.")
        return batch

    async def _receive(self, request: web.Request, name: str) -> web.Response:
        if request.method not in ("POST", "DELETE"):
            return method_not_allowed(request, "POST, DELETE")
        peek_lock = request.method == "POST"
        queue, timeout = self._queue(request, name, Right.LISTEN), _timeout(request)
        queue.require_receivable()
        if queue.settings.requires_session:
            text = f"'{queue.settings.name}' requires sessions, which cannot be received from over HTTP; use AMQP."
            raise ServiceBusError(NOT_ALLOWED, text)
        message = await self._next(queue, peek_lock=peek_lock, timeout=timeout)
        if message is None:
            return web.Response(status=204)
        self._broker.storage.flush()
        headers = messages.http_headers(message)
        if peek_lock:
            path = f"{quote(queue.settings.name, safe='/$')}/messages/{message.sequence_number}/{message.lock_token}"
            headers["Location"] = f"{request.scheme}://{request.host}/{path}"
        return web.Response(status=201 if peek_lock else 200, body=messages.http_body(message), headers=headers)

    async def _next(self, queue: Queue, *, peek_lock: bool, timeout: float) -> BrokeredMessage | None:
        receiver = _HttpReceiver(queue, peek_lock=peek_lock)
        self._receivers.add(receiver)
        queue.subscribe(receiver)
        try:
            await asyncio.wait([receiver.message], timeout=timeout)
        except asyncio.CancelledError:
            # The client disconnected. The queue may have assigned a message in the same iteration of the loop.
            receiver.release()
            raise
        finally:
            queue.unsubscribe(receiver)
            self._receivers.discard(receiver)
        return receiver.message.result() if receiver.message.done() else None

    def _settle(self, request: web.Request, name: str, number: str, token: str) -> web.Response:
        operations: dict[str, Callable[[Queue, uuid.UUID], object]] = {
            "DELETE": lambda queue, lock: queue.complete(lock),
            "PUT": lambda queue, lock: queue.abandon(lock, {}),
            "POST": lambda queue, lock: queue.renew(lock),
        }
        operation = operations.get(request.method)
        if operation is None:
            return method_not_allowed(request, ", ".join(operations))
        queue = self._queue(request, name, Right.LISTEN)
        lock = _locked(queue, number, token)
        if lock is None:
            return status_response(404, f"'{queue.settings.name}' has no message {number} under the lock {token}.")
        self._broker.faults.check(FaultPoint.SETTLE, queue.settings.name)
        operation(queue, lock)
        self._broker.storage.flush()
        return web.Response(status=200)

    def _queue(self, request: web.Request, name: str, right: Right) -> Queue:
        self._authorizer.authorize(request.headers.get("Authorization"), name, right)
        return self._broker.find(name)

    def _break(self, entity: str, error: ServiceBusError) -> None:
        for receiver in [receiver for receiver in self._receivers if receiver.entity == entity]:
            receiver.fail(error)


class _HttpReceiver:
    """Receives one message from a queue."""

    def __init__(self, queue: Queue, *, peek_lock: bool) -> None:
        self.peek_lock = peek_lock
        self.entity = queue.settings.name.lower()
        self.message: asyncio.Future[BrokeredMessage] = asyncio.get_running_loop().create_future()
        self._queue = queue

    def has_capacity(self) -> bool:
        """See `entities.receiver`."""
        return not self.message.done()

    def deliver(self, message: BrokeredMessage) -> None:
        """See `entities.receiver`."""
        self.message.set_result(message)

    def fail(self, error: ServiceBusError) -> None:
        """Fail the receive: the queue was deleted or no longer allows receives."""
        if not self.message.done():
            self.message.set_exception(error)

    def release(self) -> None:
        """Release the message if it was received for a client that has disconnected."""
        if self.message.done() and self.message.exception() is None and self.peek_lock:
            token = self.message.result().lock_token
            if token is not None:
                self._queue.release(token)


def _locked(queue: Queue, number: str, token: str) -> uuid.UUID | None:
    """Return the lock if it belongs to the message with this sequence number or message ID."""
    try:
        lock = uuid.UUID(token)
    except ValueError:
        return None
    locked = next((message for message in queue.locked_messages() if message.lock_token == lock), None)
    return lock if locked is not None and number in (str(locked.sequence_number), str(locked.message_id)) else None


def _timeout(request: web.Request) -> int:
    value = request.query.get("timeout", str(DEFAULT_TIMEOUT_SECONDS))
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise ServiceBusError(ARGUMENT_ERROR, f"timeout: '{value}' must be a whole number of seconds.")
    return min(int(value), MAX_TIMEOUT_SECONDS)
