"""How the messages of each queue are read: requests as their senders wrote them, continuations as the worker did."""

from __future__ import annotations

from contracts.message import ReceivedMessage
from contracts.request import FlowRequest
from worker.continuations import Continuation
from worker.handler import Reader


def requests_of(queue: str) -> Reader:
    """A reader of the request queue `queue`. It raises `InvalidRequest` and `Unanswerable`."""

    def read(message: ReceivedMessage) -> Continuation:
        return Continuation.of(FlowRequest.from_message(message), message, queue)

    return read


def continuation(message: ReceivedMessage) -> Continuation:
    """Read a message of the continuation queue. Raises `InvalidContinuation`."""
    return Continuation.from_message(message)
