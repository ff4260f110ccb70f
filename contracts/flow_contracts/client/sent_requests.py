"""The sent requests, by which a client distinguishes its own results from those of other requests."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from pydantic import SecretStr

from flow_contracts.reply_key import derived_reply_key, new_reply_key
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
    """The last requests of one client, and the secret from which their default reply keys follow.

    Any sender can name any session for its result. So a session may hold results of other senders' requests, with a
    chosen correlation ID and a guessed message ID. Only the sender of a request and the worker know its reply key.
    """

    def __init__(self) -> None:
        self._secret = new_reply_key()
        self._requests: OrderedDict[tuple[str, str], SentRequest] = OrderedDict()
        self._last: dict[str, str] = {}
        """The message ID of the last request under each correlation ID."""
        self._forgot = False

    def key_for(self, correlation_id: str, message_id: str | None) -> SecretStr:
        """Return the key of a request without a chosen one: that of its first sending, else the derived one.

        A derived key needs no memory: the client still checks the results of requests that it forgot.
        """
        sent = self._requests.get((correlation_id, message_id)) if message_id is not None else None
        return (sent and sent.reply_key) or derived_reply_key(self._secret, correlation_id)

    def remember(self, request: FlowRequest) -> None:
        """Record a request, and forget the oldest if there are too many."""
        identity = request.correlation_id, request.message_id
        self._requests[identity] = SentRequest(request.message_id, request.reply_key)
        self._requests.move_to_end(identity)
        self._last[request.correlation_id] = request.message_id
        while len(self._requests) > _MAX_REMEMBERED:
            (correlation_id, message_id), _ = self._requests.popitem(last=False)
            if self._last.get(correlation_id) == message_id:
                del self._last[correlation_id]
            self._forgot = True

    def find(self, correlation_id: str, message_id: str | None, reply_key: SecretStr | None) -> SentRequest:
        """Return the request whose result a reader wants: by default the last one under that correlation ID.

        An argument of None stands for the value of the request that this client sent. Only if this client cannot have
        sent a request under the correlation ID, None stands for any value. A client that forgot requests cannot exclude
        that it sent this one, so it then checks results under the key that it would have derived.
        """
        last = self._last.get(correlation_id)
        message_id = message_id if message_id is not None else last
        if reply_key is None and (last is not None or self._forgot):
            reply_key = self.key_for(correlation_id, message_id)
        return SentRequest(message_id, reply_key)
