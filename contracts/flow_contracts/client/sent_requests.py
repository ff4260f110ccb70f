"""The sent requests, by which a client distinguishes its own results from those of other requests."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from pydantic import SecretStr

from flow_contracts.request import FlowRequest
from flow_contracts.result import FlowResult

_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class SentRequest:
    """The properties of a request by which its reader recognises its result."""

    message_id: str | None
    """None stands for any request."""
    reply_key: SecretStr | None = None
    """None if the reader does not know the key: then it accepts results unchecked."""

    def is_answered_by(self, result: FlowResult) -> bool:
        """Return whether `result` answers this request, or its replay."""
        return self.message_id is None or self.message_id in {result.request_message_id, result.replay_of}


class SentRequests:
    """The latest request for each correlation ID.

    Any sender can name any session for its result. So a session may hold results of other senders' requests, with a
    chosen correlation ID and a guessed message ID. Only the sender of a request and the worker know its reply key.
    """

    def __init__(self) -> None:
        self._requests: OrderedDict[str, SentRequest] = OrderedDict()

    def remember(self, request: FlowRequest) -> None:
        """Record a request, and forget the oldest if there are too many."""
        self._requests[request.correlation_id] = SentRequest(request.message_id, request.reply_key)
        self._requests.move_to_end(request.correlation_id)
        while len(self._requests) > _MAX_REMEMBERED:
            self._requests.popitem(last=False)

    def last(self, correlation_id: str | None) -> SentRequest | None:
        """Return the last request under the correlation ID, if the client remembers one."""
        return None if correlation_id is None else self._requests.get(correlation_id)

    def find(self, correlation_id: str, message_id: str | None, reply_key: SecretStr | None) -> SentRequest:
        """Return the request whose result a reader wants: by default the last one under that correlation ID.

        An argument of None stands for the value of the request that this client sent, if it remembers one.
        """
        own = self._requests.get(correlation_id)
        if own is None or message_id not in (None, own.message_id):
            return SentRequest(message_id, reply_key)
        return SentRequest(own.message_id, reply_key or own.reply_key)
